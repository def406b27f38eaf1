import assert from "node:assert/strict";
import { exchangeMappedBitmap } from "./dirty-tracking.js";
import { type Block, makeBlock } from "./fixture.js";
import { loadIndex, markPages, storeIndex } from "./rings.js";

describe("rings and logs in shared memory", () => {
  let block: Block;
  beforeEach(() => {
    block = makeBlock(4096);
  });
  afterEach(() => block.close());

  it("loads the index it stored, little-endian, and touches nothing else", () => {
    storeIndex(block.mapping, 6, 0xabcd);
    assert.equal(loadIndex(block.mapping, 6), 0xabcd);
    assert.deepEqual([...block.content().subarray(4, 10)], [0, 0, 0xcd, 0xab, 0, 0]);
  });

  it("refuses an index that is odd, too large, or outside", () => {
    assert.throws(() => loadIndex(block.mapping, 3), { name: "AssertionError" });
    assert.throws(() => storeIndex(block.mapping, 0, 65_536), { name: "AssertionError" });
    assert.throws(() => storeIndex(block.mapping, 4096, 0), { name: "AssertionError" });
  });

  it("marks runs of pages that begin and end inside a byte, as bits that an exchange takes", () => {
    markPages(block.mapping, 6, 21);
    markPages(block.mapping, 63, 1);
    const out = new Uint8Array(4096);
    assert.equal(exchangeMappedBitmap(block.mapping, out), 22);
    assert.deepEqual([...out.subarray(0, 9)], [0xc0, 0xff, 0xff, 0x07, 0, 0, 0, 0x80, 0]);
  });

  it("refuses a page past the log's end", () => {
    markPages(block.mapping, 32_767, 1);
    assert.throws(() => markPages(block.mapping, 32_767, 2), { name: "AssertionError" });
  });
});
