import assert from "node:assert/strict";
import { codecs, findCodec } from "./codecs.js";
import { images } from "./images.js";
import { caseKey, describeCase, type Lists, planCases } from "./plan.js";

const everything = { codecs, images: images.map(({ name }) => name) };
const unsaid: Lists = { codecs: null, channels: null, transports: null, images: null, sizes: null };
const GIB = 2 ** 30;

describe("plan of cases", () => {
  it("begins with every codec at the base, and adds smaller sizes for the first", () => {
    const plan = planCases(unsaid, false, everything);
    const base = codecs.map(({ method }) => `${method}/2/unix/mixed/${GIB}`);
    assert.deepEqual(plan.map(caseKey), [...base, `none/2/unix/mixed/${GIB / 4}`, `none/2/unix/mixed/${GIB / 2}`]);
  });

  it("combines what is listed, and nothing else", () => {
    const lists: Lists = { ...unsaid, codecs: [findCodec("zstd")], channels: [1, 4], images: ["zero", "text"] };
    const plan = planCases(lists, false, everything).map(describeCase);
    assert.deepEqual(plan, [
      "zstd, 1024 MiB zero, 1 channel, unix",
      "zstd, 1024 MiB zero, 4 channels, unix",
      "zstd, 1024 MiB text, 1 channel, unix",
      "zstd, 1024 MiB text, 4 channels, unix",
    ]);
  });

  it("varies each setting alone for every codec when full, and repeats nothing", () => {
    const plan = planCases(unsaid, true, everything);
    assert.equal(new Set(plan.map(caseKey)).size, plan.length);
    const ofOne = plan.filter(({ codec }) => codec.method === "none");
    assert.equal(plan.length, ofOne.length * codecs.length);
    const different = ofOne.filter(({ channels, transport, image, ramBytes }) => {
      const changed = [channels !== 2, transport !== "unix", image !== "mixed", ramBytes !== 4 * GIB];
      return changed.filter(Boolean).length > 1;
    });
    assert.deepEqual(different, []);
    assert.deepEqual([...new Set(ofOne.map(({ channels }) => channels))].sort(), [1, 2, 4, 8]);
    assert.deepEqual([...new Set(ofOne.map(({ ramBytes }) => ramBytes / GIB))].sort(), [1, 4, 8]);
    assert.deepEqual([...new Set(ofOne.map(({ image }) => image))].sort(), ["mixed", "random", "text", "zero"]);
  });
});
