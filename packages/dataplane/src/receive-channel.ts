/**
 * Receive channel: one worker thread that turns packets back into pages.
 *
 * Per packet it crosses into C twice: once for the header, and, when that has
 * been checked here against the RAM blocks and our own limits, once for the
 * payload, which C receives, decodes and places. SYNC is honoured after the
 * packet's own pages, for sources before 9.0 send pages with it.
 *
 * A zero page is written only where something may have been written before:
 * fresh guest RAM reads as zero, and touching it would cost a host page.
 *
 * Blocks in recv(2) and at the barrier; the coordinator ends it by shutting the
 * socket down and giving the barrier up. Owns its packet block and codec context.
 */
import {
  clearPages,
  createDecompressor,
  freeCodec,
  PacketBlock,
  receiveBytes,
  receiveHeader,
  receivePages,
} from "@multifd/native";
import {
  ChannelError,
  checkDeviceStatePacket,
  checkNoDuplicates,
  checkPageCounts,
  checkPayload,
  DEVICE_STATE_PACKET_BYTES,
  decodeDeviceStatePacket,
  decodePacketFlags,
  decodeRamPacketHeader,
  describeError,
  PACKET_DEVICE_STATE,
  PACKET_SYNC,
  ProtocolError,
  packetPagesMax,
  placeError,
  RAM_PACKET_HEADER_BYTES,
  ramPacketBytes,
  takePageOffsets,
} from "@multifd/protocol";
import type { ChannelResult, DeviceStateArrived, ReceiveTask } from "./messages.js";
import { COUNTER } from "./shared-words.js";
import { SyncBarrier } from "./sync-barrier.js";

/** Most bytes of one device-state packet that we hold at once. */
export const DEVICE_STATE_RECEIVE_MAX = 64 * 1024 * 1024;

/** Where the flags stand in every packet header, and the bit that says that it is the short one. */
const FLAGS_AT = 8;

/** Runs a channel until its stream ends or it is told to give up. Never throws for what can happen on a wire. */
export function runReceiveChannel(task: ReceiveTask): ChannelResult {
  const receiver = new PacketReceiver(task);
  try {
    while (receiver.receivePacket()) receiver.packets++;
    receiver.barrier.markEnded(task.channel);
    return { ok: true };
  } catch (error) {
    const description = describeError(placeError(error, `channel ${task.channel}, packet ${receiver.packets}`));
    if (description === null) throw error;
    return { ok: false, error: description };
  } finally {
    receiver.free();
    receiver.barrier.ring();
  }
}

class PacketReceiver {
  readonly barrier: SyncBarrier;
  packets = 0;
  readonly #task: ReceiveTask;
  readonly #packet = new PacketBlock();
  readonly #pagesMax: number;
  readonly #scratch: Uint32Array;
  readonly #written: readonly Int32Array[];
  readonly #lengths: readonly bigint[];
  readonly #blockIndexes: ReadonlyMap<string, number>;
  readonly #counters: Float64Array;
  readonly #countersAt: number;
  readonly #codec: number;

  constructor(task: ReceiveTask) {
    const { pageBytes, compression, blocks } = task;
    this.#task = task;
    this.barrier = new SyncBarrier(task.channels, task.barrier);
    this.#pagesMax = packetPagesMax(pageBytes);
    this.#scratch = new Uint32Array(this.#pagesMax);
    this.#lengths = blocks.map((block) => BigInt(block.lengthBytes));
    this.#written = blocks.map((block) => new Int32Array(block.written));
    this.#blockIndexes = new Map(blocks.map((block, index) => [block.name, index]));
    this.#counters = new Float64Array(task.counters);
    this.#countersAt = task.channel * COUNTER.words;
    this.#codec = compression === "none" ? 0 : createDecompressor(compression);
    this.#packet.socket = task.descriptor;
    this.#packet.pageBytes = pageBytes;
    this.#packet.headerBytes = ramPacketBytes(pageBytes);
    this.#packet.shortHeader(DEVICE_STATE_PACKET_BYTES, FLAGS_AT, PACKET_DEVICE_STATE);
  }

  free(): void {
    if (this.#codec !== 0) freeCodec(this.#codec);
  }

  /** Receives and applies one packet. @returns false at the end of the stream, or when told to give up. */
  receivePacket(): boolean {
    const received = receiveHeader(this.#packet);
    if (received === 0) return false;
    this.#counters[this.#countersAt + COUNTER.wireBytes]! += received;
    const flags = decodePacketFlags(this.#packet.headerView, 0);
    if ((flags & PACKET_DEVICE_STATE) !== 0) {
      this.#receiveDeviceState();
      return true;
    }
    this.#receiveRam();
    if ((flags & PACKET_SYNC) === 0) return true;
    return this.barrier.arrive(this.#task.channel);
  }

  #receiveRam(): void {
    const packet = this.#packet;
    const { headerView, pages } = packet;
    const { pageBytes, compression } = this.#task;
    const header = decodeRamPacketHeader(headerView, 0);
    checkPageCounts(header, this.#pagesMax);
    const payloadBytes = checkPayload(header, compression, pageBytes);
    const { normalPages, zeroPages } = header;
    const count = normalPages + zeroPages;
    if (count === 0) return;
    const index = this.#findBlock(header.ramBlock);
    const block = this.#task.blocks[index]!;
    takePageOffsets(headerView, RAM_PACKET_HEADER_BYTES, count, pageBytes, block.lengthBytes, block.name, pages, 0);
    checkNoDuplicates(pages, count, this.#scratch);
    packet.target(block.address, this.#lengths[index]!, block.file);
    if (normalPages > 0) this.#placeNormalPages(normalPages, payloadBytes, this.#written[index]!);
    if (zeroPages > 0) this.#clearZeroPages(normalPages, zeroPages, this.#written[index]!);
  }

  #findBlock(name: string): number {
    const index = this.#blockIndexes.get(name);
    if (index !== undefined) return index;
    throw new ProtocolError(
      "RAM_BLOCK_UNKNOWN",
      `a packet names RAM block "${name}", the main channel listed ${[...this.#blockIndexes.keys()].map((known) => `"${known}"`).join(", ")}; the channels do not belong to one migration`,
    );
  }

  #placeNormalPages(normalPages: number, payloadBytes: number, written: Int32Array): void {
    const packet = this.#packet;
    packet.codec = this.#codec;
    packet.normalPages = normalPages;
    packet.zeroPages = 0;
    packet.payloadBytes = payloadBytes;
    const received = receivePages(packet);
    const { pages } = packet;
    for (let i = 0; i < normalPages; i++) Atomics.or(written, pages[i]! >>> 5, 1 << (pages[i]! & 31));
    this.#counters[this.#countersAt + COUNTER.wireBytes]! += received;
    this.#counters[this.#countersAt + COUNTER.normalPages]! += normalPages;
  }

  /** Clears what may hold something; the bit stays set, which costs a later zero one more write and nothing else. */
  #clearZeroPages(from: number, zeroPages: number, written: Int32Array): void {
    const packet = this.#packet;
    const { pages } = packet;
    let clear = 0;
    for (let i = from; i < from + zeroPages; i++) {
      const page = pages[i]!;
      if ((Atomics.load(written, page >>> 5) & (1 << (page & 31))) !== 0) pages[clear++] = page;
    }
    this.#counters[this.#countersAt + COUNTER.zeroPages]! += zeroPages;
    if (clear === 0) return;
    packet.normalPages = 0;
    packet.zeroPages = clear;
    clearPages(packet);
  }

  #receiveDeviceState(): void {
    const packet = decodeDeviceStatePacket(this.#packet.headerView, 0);
    checkDeviceStatePacket(packet, DEVICE_STATE_RECEIVE_MAX);
    const bytes = new Uint8Array(packet.payloadBytes);
    const received = receiveBytes(this.#task.descriptor, bytes);
    this.#counters[this.#countersAt + COUNTER.wireBytes]! += received;
    if (received < bytes.length) {
      throw new ChannelError(
        "CHANNEL_CUT",
        `the stream ended after ${received} of ${bytes.length} bytes of device "${packet.device}"; the source or the link went away`,
      );
    }
    const arrived: DeviceStateArrived = { idstr: packet.device, instanceId: packet.instanceId, bytes };
    this.#task.devices.postMessage(arrived, [bytes.buffer]);
    this.barrier.countDeviceState(this.#task.channel);
  }
}
