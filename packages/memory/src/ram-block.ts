/**
 * RAM block: a named run of guest RAM, counted in target pages.
 *
 * A page index is a page's number inside its block; it becomes a byte offset
 * only on the wire and an address only in C. Lengths and offsets are plain
 * numbers: exact below 2^53, and a block is held below 2^32 pages so that a page
 * index fits the 32-bit arrays that travel between the threads.
 */

export type RamBlock = {
  readonly name: string;
  /** The block's used length in bytes, a whole number of pages. */
  readonly lengthBytes: number;
  /** The target's page size, a power of two; never the host's or a huge page's. */
  readonly pageBytes: number;
  readonly pageCount: number;
};

/**
 * Describes a RAM block.
 *
 * @returns null where `lengthBytes` is no whole, positive number of pages below 2^32: the caller knows whose
 *   mistake that is and says so.
 */
export function describeRamBlock(name: string, lengthBytes: number, pageBytes: number): RamBlock | null {
  const pageCount = lengthBytes / pageBytes;
  if (!Number.isInteger(pageCount) || pageCount < 1 || pageCount >= 2 ** 32) return null;
  return { name, lengthBytes, pageBytes, pageCount };
}
