import assert from "node:assert/strict";
import { closeDescriptor, receiveBytes, sendBytes, socketPair } from "@multifd/native";
import { Channel } from "./channel.js";
import { MainChannel } from "./main-channel.js";

/** More than any socket buffer holds. */
const MUCH = 8 * 2 ** 20;

function pattern(bytes: number): Uint8Array {
  return Uint8Array.from({ length: bytes }, (_, i) => (i * 31 + (i >> 8)) & 0xff);
}

describe("main channel", () => {
  let near: MainChannel;
  let far: MainChannel;
  beforeEach(() => {
    const [a, b] = socketPair();
    near = new MainChannel(new Channel(a));
    far = new MainChannel(new Channel(b));
  });
  afterEach(() => {
    near.destroy();
    far.destroy();
  });

  it("carries bytes both ways and counts them", async () => {
    const question = pattern(300_000);
    const answer = pattern(5);
    const written = near.write(question);
    assert.equal(await far.source.fill(question.length), true);
    assert.deepEqual(Uint8Array.from(far.source.take(question.length)), question);
    await written;
    await far.write(answer);
    assert.equal(await near.source.fill(5), true);
    assert.deepEqual(Uint8Array.from(near.source.take(5)), answer);
    assert.deepEqual([near.wireBytes, far.wireBytes], [300_005, 300_005]);
  });

  it("confirms a write only when the kernel has taken all of it", async () => {
    let confirmed = false;
    const writing = near.write(new Uint8Array(MUCH)).then(() => {
      confirmed = true;
    });
    await far.source.fill(1000);
    assert.equal(confirmed, false);
    await far.source.fill(MUCH);
    await writing;
  });

  it("ends one direction and goes on in the other", async () => {
    await near.write(pattern(3));
    await near.end();
    assert.equal(await far.source.fill(4), false);
    assert.equal(far.source.available, 3);
    await far.write(pattern(9));
    assert.equal(await near.source.fill(9), true);
  });

  it("reports a peer that is gone with CHANNEL_BROKEN to who writes", async () => {
    far.destroy();
    const broken = { name: "ChannelError", code: "CHANNEL_BROKEN", message: /^main channel: / };
    await assert.rejects(async () => {
      for (;;) await near.write(pattern(1000));
    }, broken);
    await assert.rejects(near.write(pattern(1)), broken);
  });

  it("refuses a write once it is destroyed, and ends and drains at once", async () => {
    near.destroy();
    await assert.rejects(near.write(pattern(1)), { code: "CHANNEL_BROKEN" });
    await near.end();
    await near.drain(60_000);
  });
});

describe("main channel whose peer resets it", () => {
  it("reports CHANNEL_BROKEN to who reads", async () => {
    const [a, b] = socketPair();
    const near = new MainChannel(new Channel(a));
    await near.write(pattern(10));
    closeDescriptor(b); // with ten bytes unread: a reset
    await assert.rejects(near.source.fill(1), { name: "ChannelError", code: "CHANNEL_BROKEN" });
    near.destroy();
  });
});

describe("draining a main channel", () => {
  it("lets our last word arrive although the peer was still sending", async () => {
    const [a, b] = socketPair();
    const near = new MainChannel(new Channel(a));
    const far = new MainChannel(new Channel(b));
    const sending = far.write(new Uint8Array(MUCH));
    await near.source.fill(1000); // reading has begun, as it has when a migration fails
    await near.write(pattern(8));
    await near.end();
    const drained = near.drain(60_000);
    await sending;
    assert.equal(await far.source.fill(8), true);
    assert.deepEqual(Uint8Array.from(far.source.take(8)), pattern(8));
    assert.equal(await far.source.fill(1), false);
    far.destroy();
    await drained;
    near.destroy();
  });

  it("reports CHANNEL_BROKEN when the peer leaves without having read our last word", async () => {
    const [a, b] = socketPair();
    const near = new MainChannel(new Channel(a));
    await near.write(pattern(8));
    await near.end();
    const drained = near.drain(60_000);
    closeDescriptor(b);
    await assert.rejects(drained, { name: "ChannelError", code: "CHANNEL_BROKEN" });
    near.destroy();
  });

  it("ends after its time with a peer that keeps the channel open", async () => {
    const [a, b] = socketPair();
    const near = new MainChannel(new Channel(a));
    sendBytes(b, pattern(10));
    await near.drain(20);
    near.destroy();
    assert.equal(receiveBytes(b, new Uint8Array(1)), 0);
    closeDescriptor(b);
  });
});
