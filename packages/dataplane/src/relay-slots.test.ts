/** A relay's threads: nothing is lost, nothing leaves its round, and nobody holds more than there are slots. */
import assert from "node:assert/strict";
import { Socket } from "node:net";
import {
  closeDescriptor,
  createMemfd,
  type Mapping,
  mapFile,
  shutdownSending,
  socketPair,
  unmap,
} from "@multifd/native";
import { encodeDeviceStatePacket, type PacketMethod } from "@multifd/protocol";
import { filledPage, PAGE, ramPacket, ramPackets, runInThread, takeApart, type WireDeviceState } from "./fixture.js";
import type { ChannelResult } from "./messages.js";
import { DEVICE_STATE_RELAY_MAX, RelaySlots, SLOT_BYTES } from "./relay-slots.js";
import { createCounters, sumCounters } from "./shared-words.js";
import { SyncBarrier } from "./sync-barrier.js";

const SYNC = ramPacket({ header: { flags: 1, pagesMax: 0, ramBlock: "" } });
const FIRST_PAGES = Array.from({ length: 128 }, (_, page) => page);

/** One channel in, one channel out; the test is source, coordinator and destination. */
function relaying(toCompression: PacketMethod = "none") {
  const [inNear, inFar] = socketPair();
  const [outNear, outFar] = socketPair();
  const slots = new RelaySlots(2, 128);
  const barrier = new SyncBarrier(1);
  const lengthBytes = slots.count * SLOT_BYTES;
  const descriptor = createMemfd("slots", lengthBytes);
  const memory: Mapping = mapFile(descriptor, { lengthBytes, writable: true });
  const [taken, sent] = [createCounters(1), createCounters(1)];
  const shared = {
    channel: 0,
    pageBytes: PAGE,
    blocks: [{ name: "ram", lengthBytes: 1024 * PAGE }],
    slots: slots.shared,
    allChannels: 2,
    memory,
  };
  const receiver = runInThread<ChannelResult>({
    kind: "relay-receive",
    task: {
      ...shared,
      side: "incoming",
      descriptor: inNear,
      methods: ["none"],
      barrier: barrier.shared,
      channels: 1,
      counters: taken,
    },
  });
  const sender = runInThread<ChannelResult>({
    kind: "relay-send",
    task: {
      ...shared,
      side: "outgoing",
      descriptor: outNear,
      compression: toCompression,
      methods: [toCompression],
      level: 1,
      counters: sent,
    },
  });
  const source = new Socket({ fd: inFar });
  source.on("error", () => {}); // the thread may end before it has read all
  const destination = new Socket({ fd: outFar });
  const chunks: Buffer[] = [];
  const arrived = new Promise((resolve) => destination.once("end", resolve));
  const until = async (bell: SyncBarrier | RelaySlots, isSo: () => boolean) => {
    for (let seen = bell.bell; !isSo(); seen = bell.bell) await bell.waitForBell(seen, 1000);
  };
  return {
    slots,
    source,
    sent: () => sumCounters(sent),
    taken: () => sumCounters(taken),
    read: () => destination.on("data", (chunk: Buffer) => chunks.push(chunk)),
    /** Sees a round through as the engine does, but lets nobody go on. */
    closeRound: async (sync: number) => {
      await until(barrier, () => barrier.missing(sync).length === 0);
      slots.closeRound();
      await until(slots, () => slots.arrived === sync);
    },
    release: (sync: number) => barrier.release(sync),
    /** Ends the stream and waits until all has left; answers with how both threads ended, and all that came out. */
    end: async () => {
      source.end();
      const received = await receiver;
      if (received.ok) await until(slots, () => slots.allFree);
      slots.giveUp();
      const senderResult = await sender;
      shutdownSending(outNear);
      await arrived;
      source.destroy();
      destination.destroy();
      for (const fd of [inNear, outNear, descriptor]) closeDescriptor(fd);
      unmap(memory);
      return { received, sent: senderResult, wire: Buffer.concat(chunks) };
    },
  };
}

describe("relay slots, between a thread that receives and one that sends", () => {
  it("pass normal and zero pages on, in order of their places, under numbers of their own", async () => {
    const relay = relaying();
    relay.read();
    relay.source.write(ramPacket({ normal: [900, 3, 17], zero: [5, 4], header: { packetNumber: 77 } }));
    relay.source.write(ramPacket({ zero: [1, 0] }));
    const { received, sent, wire } = await relay.end();
    assert.deepEqual([received, sent], [{ ok: true }, { ok: true }]);
    const packets = ramPackets(takeApart(wire, "none"));
    const found = packets.map(({ packetNumber, ramBlock, normalPages, zeroPages, pages }) => [
      [packetNumber, ramBlock, normalPages, zeroPages],
      pages,
    ]);
    assert.deepEqual(found, [
      [
        [0, "ram", 3, 2],
        [900, 3, 17, 5, 4],
      ],
      [
        [1, "ram", 0, 2],
        [1, 0],
      ],
    ]);
    assert.deepEqual(packets[0]!.payload, Buffer.concat([900, 3, 17].map((page) => filledPage(page))));
    assert.deepEqual([relay.taken().wireBytes, relay.sent().wireBytes], [wire.length, wire.length]);
  });

  it("hold a round's SYNC until its packets have left, and the next round until then", async () => {
    const relay = relaying("zstd");
    relay.read();
    for (let packet = 0; packet < 40; packet++) relay.source.write(ramPacket({ normal: FIRST_PAGES }));
    relay.source.write(SYNC);
    relay.source.write(ramPacket({ normal: [200], header: { flags: 1 } })); // as sources before 9.0 put SYNC on a packet
    relay.source.write(ramPacket({ normal: [201] }));
    await relay.closeRound(1);
    assert.equal(relay.sent().normalPages, 40 * 128, "nothing of the next round");
    relay.release(1);
    await relay.closeRound(2);
    assert.equal(relay.sent().normalPages, 40 * 128 + 1);
    relay.release(2);
    const { wire } = await relay.end();
    const flags = ramPackets(takeApart(wire, "zstd")).map((packet) => [packet.flags, packet.normalPages]);
    const round = Array.from({ length: 40 }, () => [4, 128]);
    assert.deepEqual(flags, [...round, [1, 0], [4, 1], [1, 0], [4, 1]]);
  });

  it("pass a device's state on as it came, up to the largest that a slot holds", async () => {
    const relay = relaying();
    relay.read();
    const states = [Buffer.alloc(1, 7), Buffer.alloc(DEVICE_STATE_RELAY_MAX, 9)];
    for (const [instanceId, state] of states.entries()) {
      relay.source.write(
        encodeDeviceStatePacket({ device: "0000:00:04.0/vfio", instanceId, payloadBytes: state.length }),
      );
      relay.source.write(state);
    }
    const { received, wire } = await relay.end();
    assert.deepEqual(received, { ok: true });
    const found = takeApart(wire, "none") as WireDeviceState[];
    assert.deepEqual(found.map(({ instanceId, state }) => [instanceId, state.length]).sort(), [
      [0, 1],
      [1, DEVICE_STATE_RELAY_MAX],
    ]);
    for (const { instanceId, state } of found) assert.ok(state.equals(states[instanceId]!));
  });

  it("hold the source back while the destination does not read: no more than all slots", async () => {
    const relay = relaying();
    let written = 0;
    const packet = ramPacket({ normal: FIRST_PAGES });
    const total = 10 * relay.slots.count;
    const writing = (async () => {
      for (; written < total; written++) {
        if (!relay.source.write(packet)) await new Promise((resolve) => relay.source.once("drain", resolve));
      }
    })();
    // All slots are taken, or on their way out: the receiving thread now waits for one of them.
    while (relay.taken().normalPages < relay.slots.count * 128) await relay.slots.waitForBell(relay.slots.bell, 5);
    const held = relay.taken().normalPages - relay.sent().normalPages;
    assert.ok(held <= relay.slots.count * 128, `${held} pages are held`);
    assert.ok(written < total, "the source is held back");
    relay.read();
    await writing;
    const { received, wire } = await relay.end();
    assert.deepEqual(received, { ok: true });
    assert.equal(ramPackets(takeApart(wire, "none")).length, total);
  });

  const refusals: readonly (readonly [what: string, code: string, wire: Buffer])[] = [
    ["a page outside its RAM block", "MULTIFD_OFFSET_OUTSIDE", ramPacket({ normal: [1024] })],
    ["a page twice", "MULTIFD_DUPLICATE_PAGE", ramPacket({ normal: [1, 1] })],
    ["a RAM block that nobody listed", "RAM_BLOCK_UNKNOWN", ramPacket({ normal: [1], header: { ramBlock: "rom" } })],
    ["another compression", "MULTIFD_COMPRESSION", ramPacket({ normal: [1], method: "zlib" })],
    ["a packet that is cut", "CHANNEL_CUT", ramPacket({ normal: [1, 2] }).subarray(0, -1)],
    [
      "a device's state that no slot holds",
      "MULTIFD_DEVICE_STATE_SIZE",
      Buffer.from(encodeDeviceStatePacket({ device: "d", instanceId: 0, payloadBytes: DEVICE_STATE_RELAY_MAX + 1 })),
    ],
  ];
  for (const [what, code, wire] of refusals) {
    it(`pass nothing on of ${what}`, async () => {
      const relay = relaying();
      relay.read();
      relay.source.write(wire);
      const ended = await relay.end();
      assert.equal(ended.received.ok ? "" : ended.received.error.code, code);
      assert.equal(ended.wire.length, 0);
    });
  }
});
