import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { CompressionSample, PageCompressor } from "./compression-sample.js";

const PAGE_BYTES = 4096;

describe("compression sample", () => {
  let compressor: PageCompressor;
  let sample: CompressionSample;
  beforeEach(() => {
    compressor = new PageCompressor(PAGE_BYTES);
    sample = new CompressionSample(compressor, PAGE_BYTES);
  });
  afterEach(() => compressor.close());

  it("is nothing where no page came", () => {
    assert.equal(sample.result(), null);
  });

  it("finds random pages incompressible and a repeated text compressible", () => {
    for (let page = 0; page < 256; page++) sample.add(randomBytes(PAGE_BYTES));
    const random = sample.result()!;
    assert.equal(random.sampledBytes, 256 * PAGE_BYTES);
    assert.ok(random.compressedBytes >= random.sampledBytes);
    const text = new CompressionSample(compressor, PAGE_BYTES);
    text.add(Buffer.alloc(PAGE_BYTES, "text "));
    assert.ok(text.result()!.compressedBytes < 100);
  });

  it("takes runs evenly from many pages, and never more than 64", () => {
    const page = Buffer.alloc(PAGE_BYTES, 1);
    // The second half does not compress; a sample that favoured the first would not show it.
    const noise = randomBytes(PAGE_BYTES * 128);
    const runs = 1024;
    for (let i = 0; i < runs * 128; i++) {
      const isNoise = i >= (runs * 128) / 2;
      const at = (i % 128) * PAGE_BYTES;
      sample.add(isNoise ? noise.subarray(at, at + PAGE_BYTES) : page);
    }
    const { sampledBytes, compressedBytes } = sample.result()!;
    assert.ok(sampledBytes <= 64 * 128 * PAGE_BYTES && sampledBytes >= 32 * 128 * PAGE_BYTES);
    const share = compressedBytes / sampledBytes;
    assert.ok(share > 0.4 && share < 0.6, `${share}`);
  });
});
