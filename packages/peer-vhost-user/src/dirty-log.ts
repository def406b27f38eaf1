/**
 * Dirty log: which guest pages back-ends have written, in memory that they share with us.
 *
 *   page   4096 bytes, whatever the guest's or the machine's real page size
 *   bit    guest address / 4096: byte bit / 8, bit % 8, set by the back-end after the page
 *   size   up to the last byte of guest RAM or of a used ring, whichever is higher;
 *          a libvhost-user back-end dies of a log too small, others skip in silence
 *
 * Taking exchanges each word with zero first; only then may the page be read. A
 * taken bit that nobody asked for yet is kept, for words straddle RAM blocks.
 *
 * Owns the memory: back-ends have their own mapping of it.
 * Source: QEMU 11.1, docs/interop/vhost-user.rst, "Migration"; vhost_log.
 */
import { closeDescriptor, createMemfd, exchangeMappedBitmap, type Mapping, mapFile, unmap } from "@multifd/native";
import type { SharedLog } from "./attached-device.js";

export const LOG_PAGE_BYTES = 4096;
/** Guest addresses that one byte of the log stands for. */
const BYTE_SPAN = LOG_PAGE_BYTES * 8;
/** Back-ends round up to words; whole pages of log also map well. */
const LOG_ROUND = 4096;
/** Addresses up to 2^46; a log of that would be 2 GiB, and says that an address is wrong. */
const LOG_BYTES_MAX = 2 ** 30;

/** Bytes of a log that covers every guest address below `endAddress`. */
export function logBytes(endAddress: number): number {
  return Math.ceil(Math.max(1, Math.ceil(endAddress / BYTE_SPAN)) / LOG_ROUND) * LOG_ROUND;
}

export class DirtyLog {
  readonly shared: SharedLog;
  readonly #mapping: Mapping;
  /** Bits taken and not yet delivered. */
  readonly #taken: Uint32Array;
  #isOpen = true;

  /** @param endAddress  Behind the last guest address that a back-end may write. */
  constructor(endAddress: number) {
    const lengthBytes = logBytes(endAddress);
    if (lengthBytes > LOG_BYTES_MAX) throw new RangeError(`guest addresses up to 0x${endAddress.toString(16)}`);
    const descriptor = createMemfd("vhost-user-log", lengthBytes);
    this.#mapping = mapFile(descriptor, { lengthBytes, writable: true });
    this.shared = { descriptor, lengthBytes };
    this.#taken = new Uint32Array(lengthBytes / 4);
  }

  /** Marks pages as a back-end would, for writes that back-ends make without logging them. */
  note(guestAddress: number, bytes: number): void {
    const last = Math.floor((guestAddress + bytes - 1) / LOG_PAGE_BYTES);
    for (let page = Math.floor(guestAddress / LOG_PAGE_BYTES); page <= last; page++) {
      this.#taken[page >>> 5]! |= 1 << (page & 31);
    }
  }

  /**
   * Takes the bits of a run of guest pages and hands each on, ascending; they are forgotten then.
   *
   * @param firstPage  Guest address / 4096.
   * @param page       Counted from `firstPage`.
   */
  take(firstPage: number, pageCount: number, found: (page: number) => void): void {
    const fromWord = firstPage >>> 5;
    const end = firstPage + pageCount;
    const endWord = Math.min(Math.ceil(end / 32), this.#taken.length);
    const words = this.#taken.subarray(fromWord, endWord);
    const { address } = this.#mapping;
    exchangeMappedBitmap(
      { address: address + fromWord * 4, lengthBytes: words.byteLength },
      new Uint8Array(words.buffer, words.byteOffset, words.byteLength),
    );
    for (const [at, word] of words.entries()) {
      if (word === 0) continue;
      words[at] = takeBits(word, (fromWord + at) * 32, firstPage, end, found);
    }
  }

  close(): void {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    unmap(this.#mapping);
    closeDescriptor(this.shared.descriptor);
  }
}

/** Hands on the bits of one word that lie in [first, end). @returns those that do not. */
function takeBits(word: number, wordPage: number, first: number, end: number, found: (page: number) => void): number {
  let kept = 0;
  let rest = word;
  while (rest !== 0) {
    const lowest = rest & -rest;
    const page = wordPage + 31 - Math.clz32(lowest);
    rest ^= lowest;
    if (page >= first && page < end) found(page - first);
    else kept |= lowest;
  }
  return kept;
}
