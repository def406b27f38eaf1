import assert from "node:assert/strict";
import fc from "fast-check";
import { DirtyBitmap } from "./dirty-bitmap.js";

/** Takes everything, `pagesMax` pages at a time, as the packet splitter does. */
function takeAll(bitmap: DirtyBitmap, pagesMax: number): number[] {
  const out = new Uint32Array(pagesMax);
  const taken = { pages: 0 };
  const all: number[] = [];
  for (let word = 0; ; ) {
    word = bitmap.takePages(word, out, 0, pagesMax, taken);
    all.push(...out.subarray(0, taken.pages));
    if (taken.pages < pagesMax) return all;
  }
}

describe("dirty bitmap", () => {
  it("gives back every page set, ascending, once, whatever the packet size", () => {
    fc.assert(
      fc.property(fc.uniqueArray(fc.nat(999), { maxLength: 400 }), fc.integer({ min: 1, max: 200 }), (pages, max) => {
        const bitmap = new DirtyBitmap(1000);
        for (const page of pages) bitmap.set(page);
        assert.equal(bitmap.count(), pages.length);
        assert.deepEqual(
          takeAll(bitmap, max),
          pages.toSorted((a, b) => a - b),
        );
        assert.equal(bitmap.count(), 0);
      }),
    );
  });

  it("fills exactly the pages of a block that ends inside a word", () => {
    for (const pageCount of [1, 31, 32, 33, 63, 64, 65, 127, 4096]) {
      const bitmap = new DirtyBitmap(pageCount);
      bitmap.fill();
      assert.equal(bitmap.count(), pageCount);
      assert.equal(bitmap.has(pageCount - 1), true);
      assert.deepEqual(takeAll(bitmap, 128).length, pageCount);
    }
  });

  it("shows the same bits to the C library: page i is byte i >> 3, bit i & 7", () => {
    const bitmap = new DirtyBitmap(100);
    bitmap.set(0);
    bitmap.set(42);
    bitmap.set(99);
    assert.deepEqual([bitmap.bytes[0], bitmap.bytes[5], bitmap.bytes[12]], [1, 1 << 2, 1 << 3]);
  });

  it("leaves in place what did not fit the packet", () => {
    const bitmap = new DirtyBitmap(64);
    bitmap.fill();
    const taken = { pages: 0 };
    const word = bitmap.takePages(0, new Uint32Array(40), 0, 40, taken);
    assert.deepEqual([word, taken.pages, bitmap.count(), bitmap.has(40)], [1, 40, 24, true]);
  });
});
