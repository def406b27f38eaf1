import assert from "node:assert/strict";
import { runInThread } from "./fixture.js";
import { SyncBarrier } from "./sync-barrier.js";

/** Waits, as the coordinator does, until every channel has met its SYNC number `sync`. */
async function allMet(barrier: SyncBarrier, sync: number, channels: readonly number[]): Promise<void> {
  for (;;) {
    const { bell } = barrier;
    const missing = barrier.missing(sync);
    if (channels.every((channel) => !missing.includes(channel))) return;
    await barrier.waitForBell(bell, 10_000);
  }
}

describe("sync barrier", () => {
  let barrier: SyncBarrier;
  let gate: SharedArrayBuffer;
  beforeEach(() => {
    barrier = new SyncBarrier(3);
    gate = new SharedArrayBuffer(4);
  });
  const channelThread = (channel: number) =>
    runInThread<number[]>({ kind: "arrive", barrier: barrier.shared, channels: 3, channel, gate });

  it("lets no channel pass a SYNC before it is released, round after round", async () => {
    const threads = [0, 1, 2].map(channelThread);
    for (let sync = 1; sync <= 20; sync++) {
      await allMet(barrier, sync, [0, 1, 2]);
      assert.deepEqual(barrier.missing(sync + 1), [0, 1, 2]);
      Atomics.store(new Int32Array(gate), 0, sync);
      barrier.release(sync);
    }
    await allMet(barrier, 21, [0, 1, 2]);
    barrier.giveUp();
    const due = Array.from({ length: 20 }, (_, i) => i + 1);
    assert.deepEqual(await Promise.all(threads), [due, due, due]);
  });

  it("counts a SYNC that comes before anybody waits for it, and names the channels still missing", async () => {
    const early = channelThread(1);
    await allMet(barrier, 1, [1]);
    assert.deepEqual(barrier.missing(1), [0, 2]);
    const late = [channelThread(0), channelThread(2)];
    await allMet(barrier, 1, [0, 1, 2]);
    barrier.giveUp();
    assert.deepEqual(await Promise.all([early, ...late]), [[], [], []]);
  });

  it("consumes one SYNC of each channel per release, though one was released before it was met", async () => {
    barrier.release(2);
    const thread = channelThread(0);
    await allMet(barrier, 3, [0]);
    assert.deepEqual(barrier.missing(4), [0, 1, 2]);
    barrier.giveUp();
    assert.equal((await thread).length, 2);
  });

  it("holds nobody any more once it is released for good", async () => {
    barrier.releaseForGood();
    assert.equal((await channelThread(2)).length, 100);
  });

  it("sends channels on their way that wait when it is given up", async () => {
    const threads = [0, 1, 2].map(channelThread);
    await allMet(barrier, 1, [0, 1, 2]);
    barrier.giveUp();
    assert.deepEqual(await Promise.all(threads), [[], [], []]);
  });

  it("knows whose stream has ended, and how many device states have come", () => {
    const worker = new SyncBarrier(3, barrier.shared);
    const { bell } = barrier;
    worker.countDeviceState(0);
    worker.countDeviceState(2);
    worker.countDeviceState(2);
    worker.markEnded(1);
    assert.notEqual(barrier.bell, bell, "the coordinator is woken");
    assert.deepEqual(
      [0, 1, 2].map((channel) => barrier.ended(channel)),
      [false, true, false],
    );
    assert.equal(barrier.deviceStates, 3);
  });
});
