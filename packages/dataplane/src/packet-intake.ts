/**
 * Packet intake: one channel's packets, each checked before anything is done with it.
 *
 * Takes the header off the socket, tells a RAM packet from a device's state, and
 * holds every announced number against the RAM blocks and our own limits. What
 * follows the header is left on the socket: whoever owns the intake takes it to
 * where it goes, guest RAM or a relay's slot.
 *
 * Hot path: one call into C per header, and the fields below are set anew by each
 * `next`. Owns its packet block and the decompressors; used by one thread.
 */
import { createDecompressor, freeCodec, PacketBlock, receiveBytes, receiveHeader } from "@multifd/native";
import {
  ChannelError,
  checkDeviceStatePacket,
  checkNoDuplicates,
  checkPageCounts,
  checkPayload,
  DEVICE_STATE_PACKET_BYTES,
  type DeviceStatePacket,
  decodeDeviceStatePacket,
  decodePacketFlags,
  decodeRamPacketHeader,
  methodFlag,
  PACKET_DEVICE_STATE,
  PACKET_METHOD_MASK,
  PACKET_SYNC,
  type PacketMethod,
  ProtocolError,
  packetPagesMax,
  RAM_PACKET_HEADER_BYTES,
  ramPacketBytes,
  takePageOffsets,
} from "@multifd/protocol";

export type IntakeTerms = {
  readonly descriptor: number;
  readonly pageBytes: number;
  /** Those that a packet may bear; more than one after a hello only. */
  readonly methods: readonly PacketMethod[];
  readonly blocks: readonly { readonly name: string; readonly lengthBytes: number }[];
  /** Largest state of one device-state packet that is taken. */
  readonly deviceStateBytesMax: number;
};

/** Where the flags stand in every packet header, and the bit that says that it is the short one. */
const FLAGS_AT = 8;

export class PacketIntake {
  /** `header` as it came; `pages` the page indexes, normal pages first, then zero pages. */
  readonly packet = new PacketBlock();
  /** Handle of the packet's decompressor; 0 for none. */
  codec = 0;
  /** Not null: this packet is a device's state, and the fields below mean nothing. */
  deviceState: DeviceStatePacket | null = null;
  /** Index of the RAM block; means nothing in a packet without pages. */
  block = 0;
  normalPages = 0;
  zeroPages = 0;
  /** Bytes on the socket behind the header. */
  payloadBytes = 0;
  /** The round ends behind this packet's pages. */
  isSync = false;
  readonly #terms: IntakeTerms;
  readonly #pagesMax: number;
  readonly #scratch: Uint32Array;
  /** By the method's bits in a packet's flags. */
  readonly #codecs: ReadonlyMap<number, number>;
  readonly #blockIndexes: ReadonlyMap<string, number>;

  constructor(terms: IntakeTerms) {
    const { descriptor, pageBytes, methods, blocks } = terms;
    this.#terms = terms;
    this.#pagesMax = packetPagesMax(pageBytes);
    this.#scratch = new Uint32Array(this.#pagesMax);
    this.#blockIndexes = new Map(blocks.map((block, index) => [block.name, index]));
    this.#codecs = new Map(
      methods.map((method) => [methodFlag(method), method === "none" ? 0 : createDecompressor(method)]),
    );
    this.packet.socket = descriptor;
    this.packet.pageBytes = pageBytes;
    this.packet.headerBytes = ramPacketBytes(pageBytes);
    this.packet.shortHeader(DEVICE_STATE_PACKET_BYTES, FLAGS_AT, PACKET_DEVICE_STATE);
  }

  free(): void {
    for (const codec of this.#codecs.values()) if (codec !== 0) freeCodec(codec);
  }

  /**
   * Receives and checks the next packet's header.
   *
   * @returns Bytes received; 0 at a clean end of the stream.
   * @throws {ProtocolError} what is wrong with it. @throws {ChannelError} CHANNEL_CUT and what else breaks a socket.
   */
  next(): number {
    const received = receiveHeader(this.packet);
    if (received === 0) return 0;
    const flags = decodePacketFlags(this.packet.headerView, 0);
    if ((flags & PACKET_DEVICE_STATE) !== 0) {
      this.deviceState = decodeDeviceStatePacket(this.packet.headerView, 0);
      checkDeviceStatePacket(this.deviceState, this.#terms.deviceStateBytesMax);
    } else {
      this.deviceState = null;
      this.isSync = (flags & PACKET_SYNC) !== 0;
      this.#takeRamHeader();
    }
    return received;
  }

  #takeRamHeader(): void {
    const { headerView, pages } = this.packet;
    const { pageBytes, methods, blocks } = this.#terms;
    const header = decodeRamPacketHeader(headerView, 0);
    checkPageCounts(header, this.#pagesMax);
    this.payloadBytes = checkPayload(header, methods, pageBytes);
    this.normalPages = header.normalPages;
    this.zeroPages = header.zeroPages;
    const count = header.normalPages + header.zeroPages;
    if (count === 0) return;
    this.codec = this.#codecs.get(header.flags & PACKET_METHOD_MASK)!;
    this.block = this.#findBlock(header.ramBlock);
    const { lengthBytes, name } = blocks[this.block]!;
    if (lengthBytes === 0) throw takesNoPage(name);
    takePageOffsets(headerView, RAM_PACKET_HEADER_BYTES, count, pageBytes, lengthBytes, name, pages, 0);
    checkNoDuplicates(pages, count, this.#scratch);
  }

  #findBlock(name: string): number {
    const index = this.#blockIndexes.get(name);
    if (index !== undefined) return index;
    throw new ProtocolError(
      "RAM_BLOCK_UNKNOWN",
      `a packet names RAM block "${name}", the main channel listed ${[...this.#blockIndexes.keys()].map((known) => `"${known}"`).join(", ")}; the channels do not belong to one migration`,
    );
  }

  /** Receives the state that a device-state packet announced; `out` is as long as that. */
  receiveDeviceState(out: Uint8Array): void {
    const received = receiveBytes(this.#terms.descriptor, out);
    if (received === out.length) return;
    throw new ChannelError(
      "CHANNEL_CUT",
      `the stream ended after ${received} of ${out.length} bytes of device "${this.deviceState!.device}"; the source or the link went away`,
    );
  }
}

function takesNoPage(name: string): ProtocolError {
  return new ProtocolError(
    "RAM_BLOCK_SHARED",
    `a packet has pages of RAM block "${name}", which takes none: both sides share its file; see that the source shares it too (share=on, x-ignore-shared), or take it in without sharing`,
  );
}
