/**
 * Range rules: how a source makes tables out of dirty bitmaps, and cuts them up for several connections.
 *
 * Both are copied by every peer that wants to send what Cloud Hypervisor sends:
 * a run of dirty pages is one range, also across words, and chunks are taken from
 * the table's end. A receiver relies on neither.
 * Source: Cloud Hypervisor 25.0 to 53.0, vm-migration/src/protocol.rs, from_bitmap() (later from_dirty_bitmap()),
 * and 52.0, partition().
 */
import { MemoryRangeTable } from "./memory-range-table.js";

/** What one Memory command on one of several connections carries at most. */
export const CHUNK_BYTES = 64 * 2 ** 20;

/**
 * Appends a range for every run of set bits, ascending.
 *
 * Bits are not clipped: one that is set past a block's end becomes a range past its end.
 *
 * @param words  Bit j of word i (lowest first) is page 64 i + j. As 32-bit words, the lower half of each first.
 * @param gpa    Guest-physical address of page 0; need not be aligned.
 * @throws {RangeError} for a range that passes 2^64.
 */
export function appendDirtyBitmap(
  table: MemoryRangeTable,
  words: BigUint64Array | Uint32Array,
  gpa: bigint,
  pageBytes: number,
): void {
  const halves =
    words instanceof Uint32Array ? words : new Uint32Array(words.buffer, words.byteOffset, words.length * 2);
  const isSmall = gpa + BigInt(halves.length * 32) * BigInt(pageBytes) <= BigInt(Number.MAX_SAFE_INTEGER);
  const small = isSmall ? Number(gpa) : 0;
  eachRun(halves, (first, pages) => {
    if (isSmall) table.append(small + first * pageBytes, pages * pageBytes);
    else table.append(gpa + BigInt(first) * BigInt(pageBytes), BigInt(pages) * BigInt(pageBytes));
  });
}

/** Calls `found` for every run of set bits, ascending. */
function eachRun(words: Uint32Array, found: (first: number, count: number) => void): void {
  let first = -1;
  for (let index = 0; index < words.length; index++) {
    const word = words[index]!;
    // Whole words are the rule: a run goes on through ones and a gap through zeros.
    if (first < 0 ? word === 0 : word === 0xffff_ffff) continue;
    for (let bit = 0; bit < 32; bit++) {
      const isSet = (word & (1 << bit)) !== 0;
      if (isSet === first >= 0) continue;
      const page = index * 32 + bit;
      if (isSet) first = page;
      else {
        found(first, page - first);
        first = -1;
      }
    }
  }
  if (first >= 0) found(first, words.length * 32 - first);
}

/**
 * Cuts a table into chunks of at most `chunkBytes` of guest RAM.
 *
 * Ranges are taken from the table's end; one that is too long for what is left of
 * a chunk gives its upper part, and its lower part goes into the next.
 *
 * @param chunkBytes  Above 0.
 */
export function* partitionRanges(table: MemoryRangeTable, chunkBytes: number): Generator<MemoryRangeTable> {
  let index = table.count;
  let low = 0n;
  let left = 0n;
  for (;;) {
    const chunk = MemoryRangeTable.empty();
    let room = BigInt(chunkBytes);
    while (room > 0n) {
      if (left === 0n) {
        if (index === 0) break;
        index--;
        ({ gpa: low, lengthBytes: left } = table.at(index));
        if (left === 0n) continue;
      }
      const taken = left < room ? left : room;
      left -= taken;
      room -= taken;
      chunk.append(low + left, taken);
    }
    if (chunk.count === 0) return;
    yield chunk;
  }
}
