import assert from "node:assert/strict";
import { truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { assertSameBytes, countNonZeroPages, firstDifference } from "./ram-compare.js";
import { createScratchDir, removeScratchDir } from "./scratch-dir.js";

const PAGE_BYTES = 4096;
/** More than one pass of compares, and not a whole number of them. */
const PAGES = 2500;

describe("RAM comparison", () => {
  let dir: string;
  let a: string;
  let b: string;
  const bytes = Buffer.alloc(PAGES * PAGE_BYTES, 0x5a);

  beforeEach(() => {
    dir = createScratchDir();
    [a, b] = [join(dir, "a"), join(dir, "b")];
    writeFileSync(a, bytes);
    writeFileSync(b, bytes);
  });
  afterEach(() => removeScratchDir(dir));

  it("finds equal files equal", () => {
    assert.equal(firstDifference(a, b), null);
  });

  it("names the first page and byte that differ, and both files' bytes", () => {
    const changed = Buffer.from(bytes);
    changed[2100 * PAGE_BYTES + 7] = 1;
    changed[2400 * PAGE_BYTES] = 1;
    writeFileSync(b, changed);
    const { page, offset } = firstDifference(a, b)!;
    assert.deepEqual([page, offset], [2100, 2100 * PAGE_BYTES + 7]);
    assert.throws(() => assertSameBytes(a, b), /page 2100, byte 0x7 of it.* has 5a5a5a5a5a5a5a5a, .* has 015a/);
  });

  it("tells a file that ends earlier", () => {
    truncateSync(b, 1700 * PAGE_BYTES);
    assert.equal(firstDifference(a, b)?.page, 1700);
    assert.throws(() => assertSameBytes(b, a), /has the file's end/);
  });

  it("compares a range at different offsets, and nothing outside", () => {
    const shifted = Buffer.concat([Buffer.alloc(100), bytes.subarray(0, 3 * PAGE_BYTES), Buffer.alloc(100)]);
    writeFileSync(b, shifted);
    assertSameBytes(a, b, { offsetB: 100, bytes: 3 * PAGE_BYTES });
    assert.equal(firstDifference(a, b, { offsetB: 100, bytes: 3 * PAGE_BYTES + 1 })?.page, 3);
  });

  it("refuses a range that both files end in, for it would compare nothing", () => {
    assert.throws(() => firstDifference(a, b, { offsetA: bytes.length, offsetB: bytes.length, bytes: 1 }), /both end/);
  });

  it("counts the pages that hold anything", () => {
    const sparse = Buffer.alloc(PAGES * PAGE_BYTES);
    sparse[5 * PAGE_BYTES + 4095] = 1;
    sparse[2499 * PAGE_BYTES] = 1;
    writeFileSync(a, sparse);
    assert.equal(countNonZeroPages(a), 2);
  });
});
