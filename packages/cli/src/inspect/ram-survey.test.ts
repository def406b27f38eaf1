import assert from "node:assert/strict";
import { PageCompressor } from "./compression-sample.js";
import { RamSurvey } from "./ram-survey.js";

const PAGE_BYTES = 4096;

describe("RAM survey of a stream", () => {
  it("takes the last word on each page, and counts what never came as absent", () => {
    const compressor = new PageCompressor(PAGE_BYTES);
    try {
      const blocks = [
        { name: "a", lengthBytes: 10 * PAGE_BYTES },
        { name: "b", lengthBytes: 2 ** 20 * PAGE_BYTES },
      ];
      const survey = new RamSurvey(blocks, PAGE_BYTES, compressor);
      const data = Buffer.alloc(PAGE_BYTES, 1);
      survey.zeroPages("a", Uint32Array.of(0, 1, 2));
      survey.page("a", 1, data); // was zero before
      survey.page("b", 2 ** 20 - 1, data);
      survey.page("a", 3, data);
      survey.page("a", 4, Buffer.alloc(PAGE_BYTES)); // zeros, sent in full
      survey.zeroPages("a", Uint32Array.of(3)); // was data before
      const [a, b] = survey.result("file");
      assert.deepEqual([a!.dataPages, a!.zeroPages, a!.absentPages], [1, 4, 5]);
      assert.deepEqual([b!.dataPages, b!.zeroPages, b!.absentPages], [1, 0, 2 ** 20 - 1]);
      // Sampled as they came: what a page was later does not matter to how it compressed.
      assert.deepEqual([a!.sample?.sampledBytes, b!.sample?.sampledBytes], [2 * PAGE_BYTES, PAGE_BYTES]);
    } finally {
      compressor.close();
    }
  });
});
