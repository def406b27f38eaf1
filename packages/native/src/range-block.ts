/**
 * Range block: up to 1024 ranges of guest RAM that cross in one call, as a bare run of bytes.
 *
 * It is `struct mfd_ranges` of native/include/multifd.h, whose offsets the C side
 * asserts. Behind the ranges lies the stage that their bytes pass through. Whoever
 * has more to move makes several calls, each long enough to make its cost
 * vanish and short enough to be told of.
 *
 * Allocated once per channel; belongs to one thread at a time.
 */
import { call } from "./library.js";
import { checked } from "./native-result.js";

/** Ranges in one call. */
export const RANGES_MAX = 1024;

const rangesAt = 64;
const rangeBytes = 48;
const blockBytes = rangesAt + RANGES_MAX * rangeBytes + 262_144;

/** A RAM block as ranges are read from it and placed into it; numbers throughout, for they are exact below 2^53. */
export type RangeBlockTarget = {
  readonly lengthBytes: number;
  /** Descriptor; -1 for the mapping, into which can only be placed. */
  readonly file: number;
  readonly fileOffsetBytes: number;
  /** Of the mapping; 0 where there is none. */
  readonly address: number;
  /** Makes pages that the file lacks (fresh-pages.ts), through the mapping at `address`; -1 for none. */
  readonly fresh: number;
};

export class RangeBlock {
  readonly #numbers: Float64Array;
  readonly #words: Int32Array;
  readonly #bytes: Uint8Array;
  #count = 0;

  constructor(socket: number) {
    const memory = new ArrayBuffer(blockBytes);
    this.#numbers = new Float64Array(memory);
    this.#words = new Int32Array(memory);
    this.#words[0] = socket;
    this.#bytes = new Uint8Array(memory);
  }

  get count(): number {
    return this.#count;
  }

  clear(): void {
    this.#count = 0;
  }

  /** Adds a range of a block; at most `RANGES_MAX` go in. */
  add(target: RangeBlockTarget, offsetBytes: number, lengthBytes: number): void {
    if (this.#count === RANGES_MAX) throw new RangeError(`more than ${RANGES_MAX} ranges in one call`);
    const at = (rangesAt + this.#count * rangeBytes) / 8;
    const numbers = this.#numbers;
    numbers[at] = target.address;
    numbers[at + 1] = target.lengthBytes;
    numbers[at + 2] = target.fileOffsetBytes;
    numbers[at + 3] = offsetBytes;
    numbers[at + 4] = lengthBytes;
    this.#words[at * 2 + 10] = target.file;
    this.#words[at * 2 + 11] = target.fresh;
    this.#count++;
  }

  /**
   * Reads all ranges from their files and sends them, back to back.
   *
   * @returns Bytes sent.
   * @throws {ChannelError} CHANNEL_BROKEN, CHANNEL_TIMEOUT; {SystemError} what a file answers.
   */
  send(): number {
    this.#words[1] = this.#count;
    return checked(call("mfd_send_ranges", this.#bytes), "sending guest RAM");
  }

  /**
   * Receives all ranges and places each in its block.
   *
   * @returns Bytes received.
   * @throws {ChannelError} CHANNEL_CUT, CHANNEL_BROKEN, CHANNEL_TIMEOUT; {SystemError} what a file answers.
   */
  receive(): number {
    this.#words[1] = this.#count;
    return checked(call("mfd_receive_ranges", this.#bytes), "receiving guest RAM");
  }
}
