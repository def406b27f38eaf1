/**
 * Dirty bitmap: one bit per page of a RAM block; one pass over it is a round.
 *
 * Bit i of the array (word i >> 5, bit i & 31) is page i, which on a
 * little-endian machine is also byte i >> 3, bit i & 7: the C library and
 * vhost-user logs see the same bits. Bits past the last page stay clear.
 *
 * Owned by one thread at a time. A bitmap that others write meanwhile is taken word
 * by word with an atomic exchange first (the trackers' business), never read here.
 */
export class DirtyBitmap {
  readonly pageCount: number;
  readonly words: Uint32Array;
  /** The same bits as bytes, for the C library. */
  readonly bytes: Uint8Array;

  /** @param shared  The bits' memory, in whole 64-bit words, where others set them; fresh memory unless given. */
  constructor(pageCount: number, shared?: SharedArrayBuffer) {
    this.pageCount = pageCount;
    // Whole 64-bit words: logs and PAGEMAP_SCAN harvests come in those.
    const words = Math.ceil(pageCount / 64) * 2;
    this.words = shared === undefined ? new Uint32Array(words) : new Uint32Array(shared, 0, words);
    this.bytes = new Uint8Array(this.words.buffer);
  }

  has(page: number): boolean {
    return (this.words[page >>> 5]! & (1 << (page & 31))) !== 0;
  }

  set(page: number): void {
    this.words[page >>> 5]! |= 1 << (page & 31);
  }

  /** Marks every page dirty: the first round. */
  fill(): void {
    const { words, pageCount } = this;
    const whole = pageCount >>> 5;
    words.fill(0xffff_ffff, 0, whole);
    words.fill(0, whole);
    if ((pageCount & 31) !== 0) words[whole] = 2 ** (pageCount & 31) - 1;
  }

  clear(): void {
    this.words.fill(0);
  }

  /** Drops bits past the last page, which a log written by somebody else may have set. */
  trim(): void {
    const whole = this.pageCount >>> 5;
    if (whole === this.words.length) return;
    this.words[whole]! &= 2 ** (this.pageCount & 31) - 1;
    this.words.fill(0, whole + 1);
  }

  /** Number of dirty pages. By index: an iterator takes twice the time, which shows at a tebibyte (bench, coordinator). */
  count(): number {
    const { words } = this;
    let pages = 0;
    for (let at = 0; at < words.length; at++) {
      const word = words[at]!;
      if (word === 0xffff_ffff) pages += 32;
      else if (word !== 0) pages += countBits(word);
    }
    return pages;
  }

  /**
   * Takes dirty pages in ascending order out of the bitmap, from word `fromWord` on.
   *
   * Hot path: once per packet, a loop over words.
   *
   * @param out     Page indexes are written from `outAt`, `pagesMax` at most.
   * @param taken   `taken.pages` is set to the number written.
   * @returns The word to go on from; `this.words.length` when nothing dirty is left.
   */
  takePages(fromWord: number, out: Uint32Array, outAt: number, pagesMax: number, taken: { pages: number }): number {
    const { words } = this;
    let pages = 0;
    let at = fromWord;
    for (; at < words.length; at++) {
      let word = words[at]!;
      const first = at * 32;
      if (word === 0xffff_ffff && pagesMax - pages >= 32) {
        for (let bit = 0; bit < 32; bit++) out[outAt + pages + bit] = first + bit;
        pages += 32;
        words[at] = 0;
        continue;
      }
      while (word !== 0 && pages < pagesMax) {
        const lowest = word & -word;
        out[outAt + pages++] = first + 31 - Math.clz32(lowest);
        word ^= lowest;
      }
      words[at] = word;
      if (word !== 0) break;
    }
    taken.pages = pages;
    return at;
  }
}

function countBits(word: number): number {
  let bits = word - ((word >>> 1) & 0x5555_5555);
  bits = (bits & 0x3333_3333) + ((bits >>> 2) & 0x3333_3333);
  return Math.imul((bits + (bits >>> 4)) & 0x0f0f_0f0f, 0x0101_0101) >>> 24;
}
