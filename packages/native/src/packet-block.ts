/**
 * Packet block: one packet's working set, seen by both languages.
 *
 * It is `struct mfd_packet` of native/include/multifd.h. A packet's calls
 * take this block and nothing else; the C side asserts the same offsets when it is compiled.
 *
 * Allocated once per channel; belongs to one thread at a time. `pages` is in
 * the machine's byte order, `header` is what goes over the wire.
 */

/** Page indexes in one packet: 512 KiB of 512-byte pages. */
export const PAGES_MAX = 1024;
/** Bytes of header, page offsets included. */
export const HEADER_BYTES_MAX = 8576;
/** What a QEMU destination takes at most. */
export const PAYLOAD_BYTES_MAX = 1_048_576;

const pagesAt = 128;
const headerAt = pagesAt + 4 * PAGES_MAX;
const payloadAt = headerAt + HEADER_BYTES_MAX;
const payloadSlackBytes = 4096;
const scratchAt = payloadAt + PAYLOAD_BYTES_MAX + payloadSlackBytes;
const blockBytes = scratchAt + 524_288 + payloadSlackBytes;

/** Indexes of 64-bit words. */
const wide = { address: 0, length: 1, fileOffset: 8 } as const;

/** Indexes of 32-bit words. */
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
  fresh: 15,
  rawFallback: 18,
} as const;

/** Where a RAM block's pages are placed: through a file, or into a mapping where there is none. */
export type PlaceTarget = {
  readonly lengthBytes: bigint;
  /** Descriptor; -1 for the mapping. */
  readonly file: number;
  readonly fileOffsetBytes: bigint;
  /** Of the mapping; 0n where there is none. */
  readonly address: bigint;
  /** Makes pages that the file lacks (fresh-pages.ts), through the mapping at `address`; -1 for none. */
  readonly fresh: number;
};

export class PacketBlock {
  readonly bytes: Uint8Array;
  /** Page indexes: normal pages, then zero pages. */
  readonly pages: Uint32Array;
  readonly header: Uint8Array;
  readonly headerView: DataView;
  readonly payload: Uint8Array;
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
    this.#wide = new BigUint64Array(memory, 0, pagesAt / 8);
    this.#signed[word.socket] = -1;
    this.#signed[word.file] = -1;
    this.#signed[word.fresh] = -1;
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
  /** What a codec makes hardly smaller stays as it is: `prepare` sets `codec` to 0 then. */
  set rawFallback(on: boolean) {
    this.#words[word.rawFallback] = on ? 1 : 0;
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

  /** Names the RAM block to send from: `lengthBytes` of a file from an offset on. */
  readFromFile(file: number, fileOffsetBytes: bigint, lengthBytes: bigint): void {
    this.#wide[wide.length] = lengthBytes;
    this.#wide[wide.fileOffset] = fileOffsetBytes;
    this.#signed[word.file] = file;
  }

  /** Names what to send from where there is no file: a mapping of our own memory. */
  readFromMapping(address: bigint, lengthBytes: bigint): void {
    this.#wide[wide.address] = address;
    this.#wide[wide.length] = lengthBytes;
    this.#signed[word.file] = -1;
  }

  /**
   * Names the RAM block to place into.
   *
   * @param makeMissing  Whether the pages to come are likely to be missing from the file: one that is not costs a
   *   call in vain.
   */
  placeInto(target: PlaceTarget, makeMissing: boolean): void {
    this.#wide[wide.address] = target.address;
    this.#wide[wide.length] = target.lengthBytes;
    this.#wide[wide.fileOffset] = target.fileOffsetBytes;
    this.#signed[word.file] = target.file;
    this.#signed[word.fresh] = makeMissing ? target.fresh : -1;
  }
}
