/**
 * Packet block: one packet's working set, seen by both languages.
 *
 * It is `struct mfd_packet` of native/include/multifd.h. A call into C costs
 * per parameter, so a packet's calls take this block and nothing else. The C
 * side asserts the same offsets when it is compiled.
 *
 * Allocated once per channel; belongs to one thread at a time. `pages` is in
 * the machine's byte order, `header` is what goes over the wire.
 */
import { bind } from "./library.js";

/** Page indexes in one packet: 512 KiB of 512-byte pages. */
export const PAGES_MAX = 1024;
/** Bytes of header, page offsets included. */
export const HEADER_BYTES_MAX = 8576;
/** What a QEMU destination takes at most. */
export const PAYLOAD_BYTES_MAX = 1_048_576;

const pagesAt = 64;
const headerAt = pagesAt + 4 * PAGES_MAX;
const payloadAt = headerAt + HEADER_BYTES_MAX;
const payloadSlackBytes = 4096;
const scratchAt = payloadAt + PAYLOAD_BYTES_MAX + payloadSlackBytes;
const blockBytes = scratchAt + 524_288 + payloadSlackBytes;

/** Indexes of 32-bit words; address and length take the first four. */
const word = {
  socket: 4,
  file: 5,
  pageBytes: 6,
  normalPages: 7,
  zeroPages: 8,
  codec: 9,
  headerBytes: 10,
  payloadBytes: 11,
  shortHeaderBytes: 12,
  shortFlagAt: 13,
  shortFlagMask: 14,
  filePage: 15,
} as const;

export class PacketBlock {
  readonly bytes: Uint8Array;
  /** Page indexes: normal pages, then zero pages. */
  readonly pages: Uint32Array;
  readonly header: Uint8Array;
  readonly headerView: DataView;
  readonly payload: Uint8Array;
  /** The calls that take this block alone (packet-calls.ts); prepared once, since that is most of their cost. */
  readonly calls: {
    readonly send: () => number;
    readonly receiveHeader: () => number;
    readonly receivePages: () => number;
    readonly clearPages: () => number;
    readonly placePages: () => number;
  };
  readonly #words: Uint32Array;
  readonly #signed: Int32Array;
  readonly #wide: BigUint64Array;

  constructor() {
    const memory = new ArrayBuffer(blockBytes);
    this.bytes = new Uint8Array(memory);
    this.pages = new Uint32Array(memory, pagesAt, PAGES_MAX);
    this.header = new Uint8Array(memory, headerAt, HEADER_BYTES_MAX);
    this.headerView = new DataView(memory, headerAt, HEADER_BYTES_MAX);
    this.payload = new Uint8Array(memory, payloadAt, PAYLOAD_BYTES_MAX);
    this.#words = new Uint32Array(memory, 0, pagesAt / 4);
    this.#signed = new Int32Array(memory, 0, pagesAt / 4);
    this.#wide = new BigUint64Array(memory, 0, 2);
    this.#signed[word.socket] = -1;
    this.#signed[word.file] = -1;
    this.calls = {
      send: bind("mfd_send", this.bytes),
      receiveHeader: bind("mfd_receive_header", this.bytes),
      receivePages: bind("mfd_receive_pages", this.bytes),
      clearPages: bind("mfd_clear_pages", this.bytes),
      placePages: bind("mfd_place_pages", this.bytes),
    };
  }

  get socket(): number {
    return this.#signed[word.socket]!;
  }
  set socket(descriptor: number) {
    this.#signed[word.socket] = descriptor;
  }
  get pageBytes(): number {
    return this.#words[word.pageBytes]!;
  }
  set pageBytes(bytes: number) {
    this.#words[word.pageBytes] = bytes;
  }
  get normalPages(): number {
    return this.#words[word.normalPages]!;
  }
  set normalPages(count: number) {
    this.#words[word.normalPages] = count;
  }
  get zeroPages(): number {
    return this.#words[word.zeroPages]!;
  }
  set zeroPages(count: number) {
    this.#words[word.zeroPages] = count;
  }
  /** Handle of a compressor or decompressor; 0 for none. */
  get codec(): number {
    return this.#words[word.codec]!;
  }
  set codec(handle: number) {
    this.#words[word.codec] = handle;
  }
  /** Bytes of `header` to send, or to receive in full. */
  get headerBytes(): number {
    return this.#words[word.headerBytes]!;
  }
  set headerBytes(bytes: number) {
    this.#words[word.headerBytes] = bytes;
  }
  /** Bytes of `payload`: set by prepare, announced to receive. */
  get payloadBytes(): number {
    return this.#words[word.payloadBytes]!;
  }
  set payloadBytes(bytes: number) {
    this.#words[word.payloadBytes] = bytes;
  }

  /**
   * Lets a received header end early.
   *
   * @param bytes     What is received first; 0 receives all `headerBytes` at once.
   * @param flagAt    Where in those bytes a big-endian 32-bit word stands.
   * @param flagMask  Any of these bits in that word: the header ends after `bytes`.
   */
  shortHeader(bytes: number, flagAt: number, flagMask: number): void {
    this.#words[word.shortHeaderBytes] = bytes;
    this.#words[word.shortFlagAt] = flagAt;
    this.#words[word.shortFlagMask] = flagMask;
  }

  /**
   * Names the RAM block that pages are read from or placed into.
   *
   * @param address  Of its mapping; 0n only with a file to place through.
   * @param file     Descriptor to place received pages through by pwrite; -1 for the mapping.
   * @param filePage Where the block begins in that file, in pages.
   */
  target(address: bigint, lengthBytes: bigint, file: number, filePage = 0): void {
    this.#wide[0] = address;
    this.#wide[1] = lengthBytes;
    this.#signed[word.file] = file;
    this.#words[word.filePage] = filePage;
  }
}
