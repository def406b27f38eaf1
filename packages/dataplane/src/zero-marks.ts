/**
 * Zero marks: the pages that a round found to be all zero, one bit each.
 *
 * A destination of before 9.0 takes zero pages as records on the main channel
 * only, and that channel is the coordinator's. So a sending thread does not name
 * them in its packets but marks them here, any number of threads at once, and the
 * coordinator takes them out when every channel has written the round's SYNC:
 * then nobody marks, and the records go out before the one that pairs with it.
 *
 * One bitmap per RAM block, shared; empty between rounds.
 */
import { DirtyBitmap } from "@multifd/memory";

/** Zero pages handed out at a time: 9 bytes each on the wire. */
const RUN_PAGES = 8192;

/** Zero pages of one RAM block; `pages` is good until the next run is asked for. */
export type ZeroRun = { readonly block: number; readonly pages: Uint32Array };

/** Memory for the marks of a RAM block. */
export function createZeroMarks(pageCount: number): SharedArrayBuffer {
  return new SharedArrayBuffer(Math.ceil(pageCount / 64) * 8);
}

/**
 * Marks pages as zero in this round. Hot path: once per packet.
 *
 * @param marks  All words of a block's marks.
 * @param pages  Page indexes; those from `from` up to `to` are marked.
 */
export function markZeroPages(marks: Int32Array, pages: Uint32Array, from: number, to: number): void {
  for (let i = from; i < to; i++) Atomics.or(marks, pages[i]! >>> 5, 1 << (pages[i]! & 31));
}

/**
 * Takes all marks out, in ascending order, block by block. Nobody may mark meanwhile.
 *
 * @param marks  One per RAM block, of `pageCounts` pages.
 */
export function* takeZeroRuns(
  marks: readonly SharedArrayBuffer[],
  pageCounts: readonly number[],
): Generator<ZeroRun, void, undefined> {
  const out = new Uint32Array(RUN_PAGES);
  const taken = { pages: 0 };
  for (const [block, shared] of marks.entries()) {
    const bitmap = new DirtyBitmap(pageCounts[block]!, shared);
    for (let word = 0; ; ) {
      word = bitmap.takePages(word, out, 0, RUN_PAGES, taken);
      if (taken.pages === 0) break;
      yield { block, pages: out.subarray(0, taken.pages) };
    }
  }
}
