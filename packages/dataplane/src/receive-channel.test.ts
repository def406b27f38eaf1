/** What a receiving thread makes of a channel: QEMU's own bytes first, then honest and dishonest ones of our making. */
import assert from "node:assert/strict";
import { readSync } from "node:fs";
import { constants, deflateSync, inflateSync } from "node:zlib";
import { compress, decompress } from "@mongodb-js/zstd";
import { PacketBlock, readMemory } from "@multifd/native";
import { ChunkSource, decodeMainStream, encodeDeviceStatePacket, FRAME_KIND } from "@multifd/protocol";
import { assertZero, filledPage, PAGE, ramPacket, ramPackets, takeApart, vector } from "./fixture.js";
import { FILE_PAGE, receiveWire, receiving } from "./fixture-receiver.js";
import { FrameReader } from "./frame-reader.js";

const EMPTY = Buffer.alloc(0);
const SYNC = ramPacket({ header: { flags: 1, pagesMax: 0, ramBlock: "" } });

/** The RAM blocks that a recorded main channel lists, in pages. */
async function recordedBlocks(peer: string): Promise<[string, number][]> {
  async function* chunks() {
    yield vector(`${peer}/main.bin.gz`);
  }
  for await (const event of decodeMainStream(new ChunkSource(chunks()))) {
    if (event.kind === "ram-blocks") return event.blocks.map(({ name, lengthBytes }) => [name, lengthBytes / PAGE]);
  }
  throw new Error(`${peer}: the recording lists no RAM blocks`);
}

/** A whole channel's payloads, decoded by a library that is not ours. */
async function decodeRecorded(method: "zlib" | "zstd", stream: Buffer): Promise<Buffer> {
  if (method === "zlib") return inflateSync(stream, { finishFlush: constants.Z_SYNC_FLUSH });
  return decompress(Buffer.concat([stream, Buffer.of(1, 0, 0)])); // an empty last block ends QEMU's open frame
}

describe("receive channel, fed with what QEMU sent", () => {
  for (const peer of ["qemu-7.2", "qemu-11.1"]) {
    for (const method of ["zlib", "zstd"] as const) {
      it(`places every page of ${peer}'s ${method} channel`, async () => {
        const wire = vector(`${peer}/channel-${method}.bin.gz`).subarray(64);
        const received = await receiveWire(wire, { compression: method, blocks: await recordedBlocks(peer) });
        assert.deepEqual(received.result, { ok: true });
        const packets = ramPackets(takeApart(wire, method));
        const plain = await decodeRecorded(method, Buffer.concat(packets.map(({ payload }) => payload)));
        let at = 0;
        for (const { ramBlock, pages, normalPages } of packets) {
          for (const [slot, page] of pages.entries()) {
            const due = slot < normalPages ? plain.subarray(at, at + PAGE) : Buffer.alloc(PAGE);
            if (slot < normalPages) at += PAGE;
            assert.ok(received.page(page, ramBlock).equals(due), `page ${page} of "${ramBlock}"`);
          }
        }
        assert.equal(at, plain.length);
        assert.equal(received.totals.normalPages, plain.length / PAGE);
        assert.equal(received.totals.wireBytes, wire.length);
        assert.equal(received.syncs, packets.filter(({ flags }) => (flags & 1) !== 0).length);
        received.close();
      });
    }
  }
});

describe("receive channel", () => {
  for (const through of ["file", "mapping", "fresh pages"] as const) {
    it(`applies the pages of a SYNC packet before it arrives, as 7.2 sends them: through the ${through}`, async () => {
      const channel = receiving({ through });
      channel.feed(ramPacket({ normal: [3, 9, 4], zero: [5], header: { flags: 1 } }), ramPacket({ normal: [3] }));
      await channel.arrived(1);
      for (const page of [3, 9, 4]) assert.ok(channel.page(page).equals(filledPage(page)));
      assert.equal(channel.totals.normalPages, 3, "the next packet waits for the release");
      channel.release(1);
      const received = await channel.end();
      assert.deepEqual([received.result, received.totals.normalPages], [{ ok: true }, 4]);
      received.close();
    });

    it(`clears a page that becomes zero, and keeps one that ceases to be: through the ${through}`, async () => {
      const wire = [
        ramPacket({ normal: [1, 2], zero: [7, 8] }),
        SYNC,
        ramPacket({ normal: [7], zero: [2] }),
        SYNC,
        ramPacket({ normal: [2], zero: [1], payload: filledPage(2, 5) }),
      ];
      const received = await receiveWire(Buffer.concat(wire), { through });
      assert.deepEqual(received.result, { ok: true });
      assertZero(received.page(1), "page 1 was cleared");
      assert.ok(received.page(2).equals(filledPage(2, 5)), "page 2 was cleared and written again");
      assert.ok(received.page(7).equals(filledPage(7)), "page 7 was zero first");
      assertZero(received.page(8), "page 8 was never written");
      received.close();
    });

    it(`clears zero pages from the start where the block held something: through the ${through}`, async () => {
      const channel = receiving({ through, startsZeroed: false });
      for (const page of [2, 3]) channel.write(page, filledPage(page, 9));
      channel.feed(ramPacket({ zero: [2] }));
      const received = await channel.end();
      assertZero(received.page(2), "page 2 was cleared");
      assert.ok(received.page(3).equals(filledPage(3, 9)), "page 3 was not spoken of");
      received.close();
    });
  }

  for (const compression of ["none", "zstd"] as const) {
    const packet = async (normal: readonly number[], zero: readonly number[], version: number) => {
      const plain = Buffer.concat(normal.map((page) => filledPage(page, version)));
      const payload = compression === "none" ? plain : await compress(plain);
      return ramPacket({ normal, zero, payload: normal.length === 0 ? EMPTY : payload, method: compression });
    };
    const rounds = async () => [
      await packet([1, 2, 9], [7, 8], 1),
      SYNC,
      await packet([7, 2], [9], 2),
      SYNC,
      await packet([], [1], 3),
    ];

    it(`places pages behind an offset of a snapshot's file, and strikes off those that become zero: ${compression}`, async () => {
      const received = await receiveWire(Buffer.concat(await rounds()), { compression, snapshot: "struck-off" });
      assert.deepEqual(received.result, { ok: true });
      const { file, present } = received.snapshot;
      assert.deepEqual([present[0], present[1]], [(1 << 2) | (1 << 7), 0]);
      const page = Buffer.alloc(PAGE);
      for (const index of [2, 7]) {
        readSync(file, page, 0, PAGE, (FILE_PAGE + index) * PAGE);
        assert.deepEqual(page, filledPage(index, 2));
      }
      readSync(file, page, 0, PAGE, (FILE_PAGE + 9) * PAGE);
      assert.deepEqual(page, filledPage(9, 1), "old bytes stay: nothing is written for a zero page");
      assert.deepEqual([received.totals.normalPages, received.totals.zeroPages], [5, 4]);
      received.close();
    });

    it(`appends packets to a compressed snapshot, the newest frame of each page on its map: ${compression}`, async () => {
      const received = await receiveWire(Buffer.concat(await rounds()), { compression, snapshot: "frames" });
      assert.deepEqual(received.result, { ok: true });
      const { file, pageMap } = received.snapshot;
      assert.deepEqual(
        [...pageMap.entries()].filter(([, unit]) => unit !== 0).map(([page]) => page),
        [2, 7],
      );
      assert.equal(pageMap[2], pageMap[7]);
      const reader = new FrameReader(file, new PacketBlock());
      const due = { unit: pageMap[2]!, kind: FRAME_KIND.pages, block: 0, pageBytes: PAGE, pageCount: 256 };
      const frame = reader.read(due);
      assert.deepEqual([...frame.pages], [7, 2]);
      reader.decode(due, frame);
      const page = Buffer.alloc(PAGE);
      readMemory(reader.window.mapping, PAGE, page);
      assert.deepEqual(page, filledPage(2, 2));
      assert.deepEqual([received.totals.normalPages, received.totals.zeroPages], [5, 4]);
      reader.free();
      received.close();
    });
  }

  it("takes no memory for the zero pages of a fresh block", async () => {
    const zero = Array.from({ length: 128 }, (_, page) => page);
    const received = await receiveWire(ramPacket({ zero }));
    assert.deepEqual([received.result, received.storedBytes()], [{ ok: true }, 0]);
    assert.equal(received.totals.zeroPages, 128);
    received.close();
  });

  it("ignores what packets without pages still carry from the packet before", async () => {
    const stale = { payloadBytes: 12345, ramBlock: "pc.gone" };
    const empty = ramPacket({ header: stale });
    const sync = ramPacket({ header: { ...stale, flags: 1 } });
    const wire = Buffer.concat([empty, sync, empty, ramPacket({ normal: [0] })]);
    const received = await receiveWire(wire, { compression: "none" });
    assert.deepEqual([received.result, received.syncs], [{ ok: true }, 1]);
    assert.ok(received.page(0).equals(filledPage(0)));
    received.close();
  });

  it("decodes packets that are each a frame of their own, from another compressor", async () => {
    const pages = [11, 10, 12];
    const plain = Buffer.concat(pages.map((page) => filledPage(page)));
    const zstd = ramPacket({ normal: pages, payload: await compress(plain, 3), method: "zstd" });
    const zlib = ramPacket({
      normal: pages,
      payload: deflateSync(plain, { finishFlush: constants.Z_SYNC_FLUSH }),
      method: "zlib",
    });
    for (const [compression, wire] of [
      ["zstd", Buffer.concat([zstd, zstd])],
      ["zlib", zlib],
    ] as const) {
      const received = await receiveWire(wire, { compression });
      assert.deepEqual(received.result, { ok: true });
      for (const page of pages) assert.ok(received.page(page).equals(filledPage(page)));
      received.close();
    }
  });

  it("hands device states over in their order and counts them before the SYNC behind them", async () => {
    const states = [Buffer.from("first"), Buffer.alloc(300_000, 7)];
    const wire = states.flatMap((state, instanceId) => [
      encodeDeviceStatePacket({ device: "0000:00:03.0/vfio", instanceId, payloadBytes: state.length }),
      state,
    ]);
    const channel = receiving({});
    channel.feed(...wire, SYNC);
    await channel.arrived(1);
    assert.equal(channel.deviceStates, 2);
    channel.release(1);
    const received = await channel.end();
    assert.deepEqual(
      received.states.map(({ idstr, instanceId, bytes }) => [idstr, instanceId, Buffer.from(bytes)]),
      states.map((state, instanceId) => ["0000:00:03.0/vfio", instanceId, state]),
    );
    received.close();
  });

  it("receives RAM behind a device-state packet that is not admitted, and no other of these", async () => {
    const state = Buffer.from("state");
    const packet = Buffer.concat([
      encodeDeviceStatePacket({ device: "d", instanceId: 0, payloadBytes: state.length }),
      state,
    ]);
    const channel = receiving({ admits: false });
    channel.feed(packet, ramPacket({ normal: [1] }), SYNC, packet, SYNC);
    await channel.arrived(1);
    assert.deepEqual([channel.deviceStates, channel.totals.normalPages], [1, 1]);
    channel.release(1);
    channel.admit();
    await channel.arrived(2);
    assert.equal(channel.deviceStates, 2);
    channel.release(2);
    (await channel.end()).close();
  });

  it("ends without an error when it is given up before a device-state packet is admitted", async () => {
    const packet = Buffer.concat([
      encodeDeviceStatePacket({ device: "d", instanceId: 0, payloadBytes: 1 }),
      Buffer.of(1),
    ]);
    const channel = receiving({ admits: false });
    channel.feed(SYNC, packet, packet);
    await channel.arrived(1);
    channel.release(1);
    channel.giveUp();
    const received = await channel.end();
    assert.deepEqual(received.result, { ok: true });
    received.close();
  });

  it("ends without an error when it is given up at a SYNC", async () => {
    const channel = receiving({});
    channel.feed(SYNC, ramPacket({ normal: [1] }));
    await channel.arrived(1);
    channel.giveUp();
    const received = await channel.end();
    assert.deepEqual([received.result, received.totals.normalPages], [{ ok: true }, 0]);
    received.close();
  });

  const header = (fields: Parameters<typeof ramPacket>[0]) => ramPacket(fields).subarray(0, 1344);
  const device = (payloadBytes: number) =>
    Buffer.from(encodeDeviceStatePacket({ device: "d", instanceId: 0, payloadBytes }));
  const wrongMagic = ramPacket({ normal: [5] });
  wrongMagic.writeUInt32BE(0x5145564d, 0);
  for (const [what, code, wire] of [
    ["an offset that is not aligned", "MULTIFD_OFFSET_UNALIGNED", ramPacket({ normal: [5], offsets: [5 * PAGE + 8] })],
    ["an offset behind the block", "MULTIFD_OFFSET_OUTSIDE", ramPacket({ normal: [5], offsets: [256 * PAGE] })],
    ["an offset near 2^53", "MULTIFD_OFFSET_OUTSIDE", ramPacket({ zero: [5], offsets: [2 ** 53 - PAGE] })],
    ["a page announced twice", "MULTIFD_DUPLICATE_PAGE", ramPacket({ normal: [5, 6], zero: [5] })],
    ["another method", "MULTIFD_COMPRESSION", ramPacket({ normal: [5], method: "zlib" })],
    ["another method for zero pages", "MULTIFD_COMPRESSION", ramPacket({ zero: [5], method: "zstd" })],
    ["an unknown RAM block", "RAM_BLOCK_UNKNOWN", ramPacket({ normal: [5], header: { ramBlock: "pc.gone" } })],
    ["more pages than slots", "MULTIFD_TOO_MANY_PAGES", header({ normal: [5], header: { normalPages: 129 } })],
    ["more slots than a packet has", "MULTIFD_TOO_MANY_PAGES", header({ header: { pagesMax: 129, flags: 1 } })],
    ["a payload of another size", "MULTIFD_PAYLOAD_SIZE", ramPacket({ normal: [5], header: { payloadBytes: 9 } })],
    ["flags that nobody knows", "MULTIFD_FLAGS", ramPacket({ normal: [5], header: { flags: 128 } })],
    ["another magic", "MULTIFD_MAGIC", wrongMagic],
    ["a stream cut inside a header", "CHANNEL_CUT", ramPacket({ normal: [5] }).subarray(0, 1343)],
    ["a stream cut inside a page", "CHANNEL_CUT", ramPacket({ normal: [5] }).subarray(0, -4000)],
    ["a device state without bytes", "MULTIFD_DEVICE_STATE_EMPTY", device(0)],
    ["a device state beyond its limit", "MULTIFD_DEVICE_STATE_SIZE", device(2 ** 21 + 1)],
    ["a device state cut short", "CHANNEL_CUT", Buffer.concat([device(100), Buffer.alloc(99)])],
  ] as const) {
    it(`refuses ${what}, naming channel and packet, and places nothing of it`, async () => {
      const received = await receiveWire(Buffer.concat([ramPacket({ normal: [0] }), SYNC, wire]));
      assert.ok(!received.result.ok);
      assert.equal(received.result.error.code, code);
      assert.match(received.result.error.message, /^channel 1, packet 2: /);
      assertZero(received.page(5), "page 5 was not placed");
      assert.deepEqual([received.states.length, received.ended], [0, false]);
      received.close();
    });
  }
});
