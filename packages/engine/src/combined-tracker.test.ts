import assert from "node:assert/strict";
import { DirtyBitmap, type DirtyTracker } from "@multifd/memory";
import { CombinedTracker } from "./combined-tracker.js";

describe("combined tracker", () => {
  const calls: string[] = [];
  const make = (name: string, page: number, failure?: Error): DirtyTracker => ({
    name,
    start: async (blocks) => void calls.push(`${name} starts on ${blocks.length}`),
    harvest: (_, dirty) => dirty.set(page),
    stop: async () => {
      calls.push(`${name} stops`);
      if (failure) throw failure;
    },
  });
  beforeEach(() => calls.splice(0));

  it("starts all, and reports what any of them reports", async () => {
    const tracker = new CombinedTracker([make("a", 1), make("b", 5)]);
    await tracker.start([]);
    const dirty = new DirtyBitmap(8);
    tracker.harvest(0, dirty);
    await tracker.stop();
    assert.deepEqual([tracker.name, [...dirty.words][0]], ["a and b", 0b10_0010]);
    assert.deepEqual(calls, ["a starts on 0", "b starts on 0", "a stops", "b stops"]);
  });

  it("stops the others when one fails to, and tells", async () => {
    const tracker = new CombinedTracker([make("a", 1, new Error("stuck")), make("b", 5)]);
    await assert.rejects(tracker.stop(), /stuck/);
    assert.deepEqual(calls, ["a stops", "b stops"]);
  });
});
