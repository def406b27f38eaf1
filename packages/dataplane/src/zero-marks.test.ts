import assert from "node:assert/strict";
import fc from "fast-check";
import { createZeroMarks, markZeroPages, takeZeroRuns } from "./zero-marks.js";

/** Takes all marks, as page indexes per block. */
function takeAll(marks: readonly SharedArrayBuffer[], pageCounts: readonly number[]): number[][] {
  const pages: number[][] = pageCounts.map(() => []);
  for (const run of takeZeroRuns(marks, pageCounts)) pages[run.block]!.push(...run.pages);
  return pages;
}

describe("zero marks", () => {
  it("give back every page marked, once, in order, and are empty then", () => {
    const counts = [20_000, 1, 77];
    const pagesOf = (count: number) => fc.uniqueArray(fc.nat(count - 1), { maxLength: 300 });
    fc.assert(
      fc.property(fc.tuple(...counts.map(pagesOf)), (blocks) => {
        const marks = counts.map(createZeroMarks);
        for (const [block, pages] of blocks.entries())
          markZeroPages(new Int32Array(marks[block]!), Uint32Array.from(pages), 0, pages.length);
        assert.deepEqual(
          takeAll(marks, counts),
          blocks.map((pages) => pages.toSorted((a, b) => a - b)),
        );
        assert.deepEqual(takeAll(marks, counts), [[], [], []]);
      }),
    );
  });

  it("take only the part of a packet's list that is named", () => {
    const marks = createZeroMarks(64);
    markZeroPages(new Int32Array(marks), Uint32Array.of(1, 31, 32, 63), 1, 3);
    assert.deepEqual(takeAll([marks], [64]), [[31, 32]]);
  });

  it("come out in pieces that are bounded, none of them lost between two", () => {
    const marks = createZeroMarks(40_000);
    markZeroPages(
      new Int32Array(marks),
      Uint32Array.from({ length: 40_000 }, (_, page) => page),
      0,
      40_000,
    );
    const sizes = [...takeZeroRuns([marks], [40_000])].map(({ pages }) => pages.length);
    assert.deepEqual(sizes, [8192, 8192, 8192, 8192, 7232]);
  });
});
