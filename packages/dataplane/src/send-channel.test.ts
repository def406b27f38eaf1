/** What a sending thread writes, taken apart by layout and decoded by codecs that are not ours. */
import assert from "node:assert/strict";
import { readSync } from "node:fs";
import { Socket } from "node:net";
import { constants, inflateSync } from "node:zlib";
import { decompress } from "@mongodb-js/zstd";
import { closeDescriptor, createMemfd, shutdownSending, socketPair, writeMemory } from "@multifd/native";
import { DeviceStage } from "./device-stage.js";
import { assertZero, filledPage, ramPackets, runInThread, type TestBlock, takeApart, testBlock } from "./fixture.js";
import { createFrameLog, createPageMap, frameLogEnd } from "./frame-log.js";
import { FrameWriter } from "./frame-writer.js";
import type { ChannelResult } from "./messages.js";
import { PACKET_KIND, PacketRing } from "./packet-ring.js";
import { createCounters, sumCounters } from "./shared-words.js";
import { createZeroMarks, takeZeroRuns } from "./zero-marks.js";

const METHOD_FLAG = { none: 0, zlib: 2, zstd: 4 } as const;

describe("send channel", () => {
  let blocks: TestBlock[];
  let ring: PacketRing;
  let stage: DeviceStage;
  let counters: SharedArrayBuffer;
  let zeroMarks: readonly SharedArrayBuffer[] | null;
  beforeEach(() => {
    zeroMarks = null;
    blocks = [testBlock("ram", 200), testBlock("/rom@etc/tables", 8)];
    for (let page = 0; page < 200; page++) if (page % 3 !== 0) blocks[0]!.write(page, filledPage(page));
    for (let page = 0; page < 8; page++) blocks[1]!.write(page, filledPage(page, 2));
    ring = new PacketRing(128);
    stage = new DeviceStage();
    counters = createCounters(4);
  });
  afterEach(() => {
    for (const block of blocks) block.close();
  });

  const sendBlocks = () =>
    blocks.map(({ name, descriptor, lengthBytes }, index) => {
      return { name, file: descriptor, fileOffsetBytes: 0, lengthBytes, zeroMarks: zeroMarks?.[index] ?? null };
    });

  function publish(kind: number, block: number, pages: readonly number[]): void {
    const slot = ring.nextSlot();
    slot.pages.set(pages, slot.at);
    ring.publish(kind, block, pages.length);
  }

  /** Opens a round of two blocks, odd order included, and ends the channel behind it. */
  function publishRound(): void {
    ring.openRound();
    publish(
      PACKET_KIND.ram,
      0,
      Array.from({ length: 128 }, (_, i) => i),
    );
    publish(PACKET_KIND.ram, 0, [199, 130, 150, 131]);
    publish(PACKET_KIND.ram, 1, [5, 0, 7]);
    publish(PACKET_KIND.ram, 0, [129, 132, 135]); // zero pages, all of them
  }

  /** Runs channel 3 to its end; answers with how it ended and all that it wrote. */
  async function send(
    compression: "none" | "zlib" | "zstd",
    frames?: { readonly file: number; readonly pageMap: SharedArrayBuffer },
  ): Promise<{ result: ChannelResult; wire: Buffer }> {
    const [near, far] = socketPair();
    const reader = new Socket({ fd: far });
    const arrived = reader.toArray();
    const result = await runInThread<ChannelResult>({
      kind: "send",
      task: {
        channel: 3,
        descriptor: near,
        pageBytes: 4096,
        compression,
        methods: [compression],
        level: 1,
        blocks: sendBlocks().map((block, index) =>
          frames && index === 0 ? { ...block, pageMap: frames.pageMap } : block,
        ),
        ...(frames && { frames: frames.file }),
        ring: ring.shared,
        stage: stage.shared,
        counters,
      },
    });
    shutdownSending(near);
    const wire = Buffer.concat((await arrived) as Buffer[]);
    closeDescriptor(near);
    return { result, wire };
  }

  for (const method of ["none", "zlib", "zstd"] as const) {
    it(`writes pages that another decoder gets back: ${method}`, async () => {
      publishRound();
      ring.closeRound();
      ring.stop("end");
      const { result, wire } = await send(method);
      assert.deepEqual(result, { ok: true });
      const packets = ramPackets(takeApart(wire, method));
      assert.deepEqual(
        packets.map(({ flags, normalPages, zeroPages, ramBlock, pagesMax, packetNumber }) => [
          flags,
          normalPages,
          zeroPages,
          ramBlock,
          pagesMax,
          packetNumber,
        ]),
        [
          [METHOD_FLAG[method], 85, 43, "ram", 128, 0],
          [METHOD_FLAG[method], 3, 1, "ram", 128, 1],
          [METHOD_FLAG[method], 3, 0, "/rom@etc/tables", 128, 2],
          [METHOD_FLAG[method], 0, 3, "ram", 128, 3],
          [1, 0, 0, "", 0, 4],
        ],
      );
      const plain = await decodeAll(
        method,
        packets.map(({ payload }) => payload),
      );
      for (const [index, { pages, normalPages, ramBlock }] of packets.entries()) {
        const block = blocks.find(({ name }) => name === ramBlock);
        const normal = pages.slice(0, normalPages).map((page) => block!.page(page));
        assert.ok(plain[index]!.equals(Buffer.concat(normal)), `packet ${index} holds its normal pages, in order`);
        for (const page of pages.slice(normalPages)) assertZero(block!.page(page), `page ${page} is all zero`);
      }
      assert.deepEqual(sumCounters(counters), { wireBytes: wire.length, normalPages: 91, zeroPages: 47 });
      assert.equal(ring.arrived, 1);
    });
  }

  for (const method of ["none", "zlib", "zstd"] as const) {
    it(`marks zero pages instead of naming them where the destination takes none in packets: ${method}`, async () => {
      const counts = [200, 8];
      zeroMarks = counts.map(createZeroMarks);
      publishRound();
      ring.closeRound();
      ring.stop("end");
      const { wire } = await send(method);
      const packets = ramPackets(takeApart(wire, method));
      assert.deepEqual(
        packets.map(({ normalPages, zeroPages, pages, packetNumber }) => [
          normalPages,
          zeroPages,
          pages.length,
          packetNumber,
        ]),
        [
          [85, 0, 85, 0],
          [3, 0, 3, 1],
          [3, 0, 3, 2],
          [0, 0, 0, 3], // the SYNC: a packet of zero pages only is not sent
        ],
      );
      const first = wire.subarray(0, 1344);
      assertZero(first.subarray(320 + 85 * 8), "no zero page is listed behind the normal ones");
      const marked = [...takeZeroRuns(zeroMarks, counts)].map(({ block, pages }) => [block, [...pages]]);
      const zeros = Array.from({ length: 128 }, (_, page) => page).filter((page) => page % 3 === 0);
      assert.deepEqual(marked, [[0, [...zeros, 129, 132, 135, 150]]]);
      assert.deepEqual(sumCounters(counters), { wireBytes: wire.length, normalPages: 91, zeroPages: 47 });
      assert.equal(ring.sentPackets, 4);
    });
  }

  it("leaves no byte of an earlier packet in the slots of a later one", async () => {
    publishRound();
    ring.closeRound();
    ring.stop("end");
    const { wire } = await send("none");
    const second = wire.subarray(1344 + 85 * 4096);
    assert.equal(second.readBigUInt64BE(320), 199n * 4096n);
    assertZero(second.subarray(320 + 4 * 8, 1344), "the slots behind the fourth are empty");
    assertZero(wire.subarray(-1344).subarray(32), "a SYNC is empty behind its number");
  });

  it("writes one SYNC per round, behind the round's packets, rounds without packets included", async () => {
    publishRound();
    ring.closeRound();
    const sent = send("none");
    for (let round = 1; round <= 3; round++) {
      for (let bell = ring.bell; ring.arrived < 1; bell = ring.bell) await ring.waitForBell(bell, 1000);
      if (round === 3) break;
      ring.openRound();
      if (round === 2) publish(PACKET_KIND.ram, 1, [round]);
      ring.closeRound();
    }
    ring.stop("end");
    const packets = ramPackets(takeApart((await sent).wire, "none"));
    assert.deepEqual(
      packets.map(({ flags, pages }) => [flags, pages.length]),
      [
        [0, 128],
        [0, 4],
        [0, 3],
        [0, 3],
        [1, 0],
        [1, 0],
        [0, 1],
        [1, 0],
      ],
    );
  });

  it("announces pages as zeros that it is told are zeros, whatever is in their places", async () => {
    ring.openRound();
    publish(PACKET_KIND.zeroPages, 0, [1, 2, 4]);
    ring.closeRound();
    ring.stop("end");
    const [packet] = ramPackets(takeApart((await send("none")).wire, "none"));
    assert.deepEqual([packet!.normalPages, packet!.zeroPages, packet!.pages], [0, 3, [1, 2, 4]]);
    assert.deepEqual(sumCounters(counters).zeroPages, 3);
  });

  describe("out of a compressed snapshot", () => {
    const whole = [5, 0, 9, 11];
    const partly = [1, 9, 199];
    let frames: { readonly file: number; readonly pageMap: SharedArrayBuffer };
    let units: number[];
    beforeEach(() => {
      const log = createFrameLog(createMemfd("test:snapshot", 0), 1);
      const pageMap = createPageMap(200);
      const writer = new FrameWriter(log);
      const append = (pages: readonly number[], version: number) => {
        const unit = frameLogEnd(log);
        writeMemory(writer.window.mapping, 0, Buffer.concat(pages.map((page) => filledPage(page, version))));
        writer.writePages(0, Uint32Array.from(pages), pages.length, 4096, new Int32Array(pageMap));
        return unit;
      };
      units = [append(partly, 1), append(whole, 2)];
      writer.free();
      frames = { file: log.file, pageMap };
    });
    afterEach(() => closeDescriptor(frames.file));

    /** Sends both frames. */
    async function sendFrames(compression: "none" | "zlib" | "zstd", live: readonly [number, number] = [2, 4]) {
      ring.openRound();
      for (const [index, unit] of units.entries()) publish(PACKET_KIND.frame, 0, [unit, live[index]!]);
      ring.closeRound();
      ring.stop("end");
      return send(compression, frames);
    }

    for (const method of ["none", "zlib", "zstd"] as const) {
      it(`sends a frame as a packet, without the pages that a newer frame has: ${method}`, async () => {
        const { result, wire } = await sendFrames(method);
        assert.deepEqual(result, { ok: true });
        const packets = ramPackets(takeApart(wire, method)).slice(0, 2);
        assert.deepEqual(
          packets.map(({ pages, zeroPages }) => [pages, zeroPages]),
          [
            [[1, 199], 0],
            [whole, 0],
          ],
        );
        const plain = await decodeAll(
          method,
          packets.map(({ payload }) => payload),
        );
        assert.deepEqual(plain[0], Buffer.concat([1, 199].map((page) => filledPage(page, 1))));
        assert.deepEqual(plain[1], Buffer.concat(whole.map((page) => filledPage(page, 2))));
      });
    }

    it("sends a whole frame's own bytes where packets are zstd", async () => {
      const { wire } = await sendFrames("zstd");
      const { payload } = ramPackets(takeApart(wire, "zstd"))[1]!;
      const file = Buffer.alloc(payload.length);
      readSync(frames.file, file, 0, file.length, units[1]! * 4096 + 32 + 4 * whole.length);
      assert.deepEqual(file, payload);
    });

    it("ends with SNAPSHOT_DAMAGED, naming the frame, where the index names other pages than are in it", async () => {
      const { result } = await sendFrames("none", [3, 4]);
      assert.ok(!result.ok);
      assert.equal(result.error.code, "SNAPSHOT_DAMAGED");
      assert.match(result.error.message, /^channel 3: frame at byte 4096: the index names 3 pages in it, it has 2/);
    });
  });

  it("writes a device's state as it was put into the stage", async () => {
    const state = Buffer.from("what a device remembers");
    ring.openRound();
    ring.publish(PACKET_KIND.deviceState, stage.put(Buffer.from("0000:00:03.0/vfio"), 9, [state]), 0);
    ring.closeRound();
    ring.stop("end");
    const [first, sync] = takeApart((await send("none")).wire, "none");
    assert.deepEqual(first, { device: "0000:00:03.0/vfio", instanceId: 9, state });
    assert.ok(sync && "flags" in sync && sync.flags === 1);
  });

  it("answers with CHANNEL_BROKEN, naming its channel, when the peer is gone", async () => {
    const [near, far] = socketPair();
    closeDescriptor(far);
    publishRound();
    ring.closeRound();
    const task = { channel: 3, descriptor: near, pageBytes: 4096, compression: "none", level: 0 } as const;
    const result = await runInThread<ChannelResult>({
      kind: "send",
      task: { ...task, methods: ["none"], blocks: sendBlocks(), ring: ring.shared, stage: stage.shared, counters },
    });
    assert.ok(!result.ok);
    assert.equal(result.error.code, "CHANNEL_BROKEN");
    assert.match(result.error.message, /^channel 3: /);
    closeDescriptor(near);
  });
});

/** Decodes payloads as one channel's stream, packet by packet. */
async function decodeAll(method: "none" | "zlib" | "zstd", payloads: readonly Buffer[]): Promise<Buffer[]> {
  if (method === "none") return [...payloads];
  if (method === "zstd") return Promise.all(payloads.map((one) => (one.length === 0 ? one : decompress(one))));
  const upTo = (count: number) =>
    count === 0
      ? Buffer.alloc(0)
      : inflateSync(Buffer.concat(payloads.slice(0, count)), { finishFlush: constants.Z_SYNC_FLUSH });
  return payloads.map((_, index) => upTo(index + 1).subarray(upTo(index).length));
}
