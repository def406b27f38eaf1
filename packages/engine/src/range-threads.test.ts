import assert from "node:assert/strict";
import { Channel } from "@multifd/channel";
import { createCounters, sumCounters } from "@multifd/dataplane";
import { closeDescriptor, createMemfd, mapFile, readMemory, socketPair, unmap, writeMemory } from "@multifd/native";
import { type RangeThread, RangeThreads } from "./range-threads.js";

const LENGTH = 1 << 20;

describe("range threads", () => {
  const threads = new RangeThreads(2);
  let near: RangeThread;
  let far: RangeThread;
  let counters: SharedArrayBuffer;
  let files: number[];
  beforeEach(() => {
    counters = createCounters(2);
    [near, far] = [threads.take(), threads.take()];
    const [ours, theirs] = socketPair();
    near.attach(new Channel(ours), "near", counters, 0);
    far.attach(new Channel(theirs), "far", counters, 1);
    files = [createMemfd("test", LENGTH), createMemfd("test", LENGTH)];
    for (const [index, thread] of [near, far].entries())
      thread.useBlocks([{ lengthBytes: LENGTH, file: files[index]!, fileOffsetBytes: 0, address: 0, fresh: -1 }]);
  });
  afterEach(async () => {
    for (const thread of [near, far]) {
      thread.shutDown();
      await threads.giveBack(thread);
    }
    for (const file of files) closeDescriptor(file);
  });
  after(() => threads.end());

  function content(file: number, bytes: number): Uint8Array {
    const mapping = mapFile(file, { lengthBytes: LENGTH, writable: false });
    const out = new Uint8Array(bytes);
    readMemory(mapping, 0, out);
    unmap(mapping);
    return out;
  }

  it("obey in order what is ordered ahead: bytes, RAM, bytes", async () => {
    const mapping = mapFile(files[0]!, { lengthBytes: LENGTH, writable: true });
    writeMemory(mapping, 0, new Uint8Array(LENGTH).fill(7));
    unmap(mapping);
    const orders = [
      near.send(Uint8Array.of(1)),
      near.sendRanges(Float64Array.of(0, 0, LENGTH)),
      near.send(Uint8Array.of(2)),
    ];
    const came = [
      far.receive(1),
      far.receiveRanges(Float64Array.of(0, 0, LENGTH), false).then(() => null),
      far.receive(1),
    ];
    await Promise.all(orders);
    assert.deepEqual(await Promise.all(came), [Uint8Array.of(1), null, Uint8Array.of(2)]);
    assert.ok(content(files[1]!, LENGTH).every((byte) => byte === 7));
    assert.deepEqual(sumCounters(counters), {
      wireBytes: 2 * (LENGTH + 2),
      normalPages: (2 * LENGTH) / 4096,
      zeroPages: 0,
    });
  });

  it("give a descriptor with the bytes that it rides on", async () => {
    const taken = far.receiveDescriptors(4, 2);
    await near.sendDescriptor(Uint8Array.of(1, 2, 3, 4), files[0]!);
    const { bytes, descriptors } = await taken;
    assert.deepEqual([[...bytes], descriptors.length], [[1, 2, 3, 4], 1]);
    closeDescriptor(descriptors[0]!);
  });

  it("tell a stream that ends by fewer bytes, and what broke by an error with its place", async () => {
    const waiting = far.receive(10);
    await near.send(Uint8Array.of(9));
    near.shutDown();
    assert.deepEqual([...(await waiting)], [9]);
    await assert.rejects(far.send(Uint8Array.of(1)), { code: "CHANNEL_BROKEN", message: /^far: / });
    await assert.rejects(far.receiveRanges(Float64Array.of(0, 0, 1), false), { code: "CHANNEL_CUT" });
  });

  it("come back from a blocked call when they are shut down, and serve another socket", async () => {
    const waiting = far.receive(1);
    far.shutDown();
    assert.equal((await waiting).length, 0);
    await threads.giveBack(far);
    const [ours, theirs] = socketPair();
    far = threads.take();
    far.attach(new Channel(theirs), "again", counters, 1);
    const other = new Channel(ours);
    const thread = threads.take();
    thread.attach(other, "other", counters, 0);
    await thread.send(Uint8Array.of(5));
    assert.deepEqual([...(await far.receive(1))], [5]);
    await threads.giveBack(thread);
  });

  it("refuse every order once they have ended", async () => {
    const pool = new RangeThreads(1);
    const thread = pool.take();
    await thread.end();
    assert.equal(thread.usable, false);
    await assert.rejects(thread.receive(1), { code: "CHANNEL_BROKEN" });
    await pool.giveBack(thread);
  });
});
