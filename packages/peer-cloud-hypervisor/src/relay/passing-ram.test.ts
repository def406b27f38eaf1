import assert from "node:assert/strict";
import { DirtyBitmap, describeRamBlock } from "@multifd/memory";
import { PassingRam } from "./passing-ram.js";

const BLOCKS = [describeRamBlock("low", 64 * 4096, 4096)!, describeRamBlock("high", 64 * 4096, 4096)!];

describe("passing RAM", () => {
  /** What the end that sends does at the beginning of a round. */
  function harvest(ram: PassingRam): number[][] {
    return BLOCKS.map(({ pageCount }, block) => {
      const dirty = new DirtyBitmap(pageCount);
      ram.harvest(block, dirty);
      return Array.from({ length: pageCount }, (_, page) => page).filter((page) => dirty.has(page));
    });
  }

  /** Whether a promise has settled once all that could be done at once has been. */
  async function settled(promise: Promise<unknown>): Promise<boolean> {
    let isSettled = false;
    const settle = () => {
      isSettled = true;
    };
    promise.then(settle, settle);
    await new Promise(setImmediate);
    return isSettled;
  }

  it("hands every page that a run of bytes touches to one round", async () => {
    const ram = new PassingRam(BLOCKS);
    ram.mark(0, 4095, 2);
    ram.mark(1, 8192, 4096);
    assert.equal(await ram.more(), true);
    assert.deepEqual(harvest(ram), [[0, 1], [2]]);
    assert.deepEqual(harvest(ram), [[], []]);
  });

  it("tells who marked a page when its round has left, and not before", async () => {
    const ram = new PassingRam(BLOCKS);
    await ram.left();
    ram.mark(0, 0, 4096);
    const first = ram.left();
    harvest(ram);
    ram.mark(0, 4096, 4096);
    const second = ram.left();
    const gone = ram.gone();
    assert.deepEqual([await settled(first), await settled(second), await settled(gone)], [false, false, false]);
    ram.sent();
    assert.deepEqual([await settled(first), await settled(second), await settled(gone)], [true, false, true]);
    await ram.more();
    assert.deepEqual(harvest(ram), [[1], []]);
    ram.sent();
    await second;
  });

  it("wakes whoever waits for a round with what is marked, and with the end", async () => {
    const ram = new PassingRam(BLOCKS);
    const more = ram.more();
    assert.equal(await settled(more), false);
    const pages = new DirtyBitmap(64);
    pages.set(63);
    ram.markPages(1, pages);
    assert.equal(await more, true);
    assert.deepEqual(harvest(ram), [[], [63]]);
    ram.sent();
    const last = ram.more();
    ram.end();
    assert.equal(await last, false);
  });

  it("still hands over what was marked before the end", async () => {
    const ram = new PassingRam(BLOCKS);
    ram.mark(0, 0, 1);
    ram.end();
    assert.deepEqual([await ram.more(), harvest(ram), await ram.more()], [true, [[0], []], false]);
  });

  it("fails whoever waits, and whoever comes later, once nothing will leave any more", async () => {
    const ram = new PassingRam(BLOCKS);
    ram.mark(0, 0, 1);
    const waits = ram.left();
    const error = new Error("the link broke");
    ram.fail(error);
    for (const promise of [waits, ram.left(), ram.gone(), ram.started]) await assert.rejects(promise, error);
  });
});
