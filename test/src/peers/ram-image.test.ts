import assert from "node:assert/strict";
import { readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { compress } from "@mongodb-js/zstd";
import { countNonZeroPages, firstDifference } from "./ram-compare.js";
import { mixedImage, randomImage, textImage, zeroImage } from "./ram-image.js";
import { createScratchDir, removeScratchDir } from "./scratch-dir.js";

const PAGE_BYTES = 4096;
/** No multiple of a packet's 512 KiB. */
const BYTES = 32 * 2 ** 20 + 3 * PAGE_BYTES;
const PAGES = BYTES / PAGE_BYTES;

describe("RAM image", () => {
  let dir: string;
  const file = (name: string) => join(dir, name);

  before(() => {
    dir = createScratchDir();
    mixedImage(file("mixed"), BYTES, 1);
  });
  after(() => removeScratchDir(dir));

  it("is 35 % zero pages when mixed, whatever its size", () => {
    assert.equal(statSync(file("mixed")).size, BYTES);
    const written = Math.round(PAGES * 0.45) + Math.round(PAGES * 0.2);
    assert.equal(countNonZeroPages(file("mixed")), written);
  });

  it("is the same for the same seed and another for another", () => {
    mixedImage(file("again"), BYTES, 1);
    assert.equal(firstDifference(file("mixed"), file("again")), null);
    mixedImage(file("again"), BYTES, 2);
    assert.notEqual(firstDifference(file("mixed"), file("again")), null);
  });

  it("has no two equal pages but zero pages", () => {
    const ram = readFileSync(file("mixed"));
    const seen = new Set<string>();
    for (let at = 0; at < BYTES; at += PAGE_BYTES) seen.add(ram.toString("latin1", at, at + PAGE_BYTES));
    assert.equal(seen.size, countNonZeroPages(file("mixed")) + 1);
  });

  it("lets zstd level 1 save between a half and two thirds of its cached part", async () => {
    const compressed = await compress(readFileSync(file("mixed")), 1);
    const ratio = (0.45 * BYTES) / (compressed.length - 0.2 * BYTES);
    assert.ok(ratio > 2 && ratio < 3, `zstd makes it ${ratio.toFixed(2)} times smaller`);
  });

  it("is incompressible when random, and all holes when zero", async () => {
    randomImage(file("random"), BYTES, 1);
    assert.ok((await compress(readFileSync(file("random")), 1)).length >= BYTES);
    zeroImage(file("zero"), BYTES);
    assert.equal(countNonZeroPages(file("zero")), 0);
    assert.equal(statSync(file("zero")).blocks, 0);
  });

  it("is text that compresses well, without zero pages, when text", async () => {
    textImage(file("text"), BYTES, 1);
    assert.equal(countNonZeroPages(file("text")), PAGES);
    const ratio = BYTES / (await compress(readFileSync(file("text")), 1)).length;
    assert.ok(ratio > 2.5, `zstd makes it ${ratio.toFixed(2)} times smaller`);
  });

  it("refuses a size that is no whole number of pages", () => {
    assert.throws(() => mixedImage(file("odd"), PAGE_BYTES + 1, 1), RangeError);
  });
});
