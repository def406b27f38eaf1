import assert from "node:assert/strict";
import { DirtyBitmap, describeRamBlock } from "@multifd/memory";
import { BitmapTracker } from "./bitmap-tracker.js";

describe("bitmap tracker", () => {
  const block = describeRamBlock("ram", 70 * 4096, 4096)!;

  it("reports each page that the embedder set once, and adds to what is dirty already", async () => {
    const shared = new SharedArrayBuffer(16);
    const tracker = new BitmapTracker([shared]);
    await tracker.start([block]);
    const words = new Int32Array(shared);
    for (const page of [0, 31, 32, 69]) Atomics.or(words, page >> 5, 1 << (page & 31));
    const dirty = new DirtyBitmap(70);
    dirty.set(5);
    tracker.harvest(0, dirty);
    assert.deepEqual(
      [0, 5, 31, 32, 69].map((page) => dirty.has(page)),
      [true, true, true, true, true],
    );
    assert.equal(dirty.count(), 5);
    const again = new DirtyBitmap(70);
    tracker.harvest(0, again);
    assert.equal(again.count(), 0);
  });

  it("drops bits behind the last page", async () => {
    const shared = new SharedArrayBuffer(16);
    new Uint8Array(shared).fill(0xff);
    const tracker = new BitmapTracker([shared]);
    await tracker.start([block]);
    const dirty = new DirtyBitmap(70);
    tracker.harvest(0, dirty);
    assert.equal(dirty.count(), 70);
  });

  it("refuses a bitmap of another size, and one that is missing, by the block's name", async () => {
    for (const bitmaps of [[new SharedArrayBuffer(8)], []]) {
      await assert.rejects(new BitmapTracker(bitmaps).start([block]), {
        name: "ConfigError",
        code: "BITMAP_SIZE",
        message: /RAM block "ram": .* 16 were due for 70 pages/,
      });
    }
  });
});
