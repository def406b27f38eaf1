/**
 * The last SYNC of QEMU 9.1 and 9.2, which no record of the main channel pairs with: taken in, and passed on.
 *
 * Neither version is at hand: what 11.1 sends is recorded, and each channel gets the SYNC that those
 * put at its end, with the count of slots that 9.1 still wrote and without it, as 9.2 does.
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { formatAddress } from "@multifd/channel";
import { startReceiver } from "../e2e/receiver.js";
import { startRelay } from "../e2e/relaying.js";
import { startSaver } from "../e2e/saved-guest.js";
import { assertSameBytes, createScratchDir, QemuProcess, removeScratchDir, zeroImage } from "../peers/index.js";
import type { Recording } from "../recorder.js";
import { replayMigration } from "../replayer.js";
import { FIELD, HEADER_BYTES } from "./packet-walk.js";
import { RAM_BYTES, recordQemu, sparseImage, VM_UUID } from "./recordings.js";

const PACKET_NUMBER_AT = 24;
const SYNC = 1;
const SLOTS = 128;

describe("a source that ends with a SYNC of its own", () => {
  let dir: string;
  const path = (name: string) => join(dir, name);
  beforeEach(() => {
    dir = createScratchDir();
    sparseImage(path("image"));
  });
  afterEach(() => removeScratchDir(dir));

  const withLastSync = async (compression: "none" | "zstd", slots: number): Promise<Recording> => {
    const { main, channels } = await recordQemu("11.1", compression);
    const sync = Buffer.alloc(HEADER_BYTES);
    sync.writeUInt32BE(0x11223344, FIELD.magic);
    sync.writeUInt32BE(1, FIELD.version);
    sync.writeUInt32BE(SYNC, FIELD.flags);
    sync.writeUInt32BE(slots, FIELD.pagesMax);
    sync.writeBigUInt64BE(1_000_000n, PACKET_NUMBER_AT);
    return { main, channels: channels.map((bytes) => Buffer.concat([bytes, sync])) };
  };

  for (const [version, compression, slots] of [
    ["9.1", "none", SLOTS],
    ["9.2", "zstd", 0],
  ] as const) {
    it(`is taken into files, as QEMU ${version} does it`, async () => {
      const receiver = await startReceiver({
        listen: `unix:${path("in")}`,
        channels: 2,
        compression,
        ram: { "pc.ram": path("ram") },
        devices: path("devices"),
      });
      const replayed = replayMigration(formatAddress(receiver.address), await withLastSync(compression, slots));
      const [{ acknowledged }, { shut }] = await Promise.all([receiver.result, replayed]);
      assert.deepEqual([acknowledged, shut], [true, 0]);
      assertSameBytes(path("image"), path("ram"));
    });
  }

  it("is taken into a snapshot", async () => {
    const saver = await startSaver("compressed", path("snapshot"), {
      socket: path("in"),
      channels: 2,
      compression: "none",
    });
    const replayed = replayMigration(formatAddress(saver.address), await withLastSync("none", 0));
    assert.equal((await Promise.all([saver.result, replayed]))[1].shut, 0);
  });

  it("is passed on to a QEMU 11.1, which never sees that SYNC", async () => {
    zeroImage(path("heir"), RAM_BYTES);
    const heir = await QemuProcess.start({
      version: "11.1",
      memory: [{ id: "pc.ram", path: path("heir"), bytes: RAM_BYTES }],
      paused: true,
      incoming: "defer",
      extraArgs: ["-uuid", VM_UUID],
    });
    try {
      await heir.setMigration({ channels: 3, compression: "zstd" });
      await heir.listen(`unix:${path("out")}`);
      const relay = await startRelay({
        listen: `unix:${path("in")}`,
        to: `unix:${path("out")}`,
        channels: 2,
        compression: "none",
        toChannels: 3,
        toCompression: "zstd",
      });
      const replayed = replayMigration(formatAddress(relay.address), await withLastSync("none", 0));
      const [{ acknowledged }, { shut }] = await Promise.all([relay.result, replayed]);
      assert.deepEqual([acknowledged, shut], [true, 0]);
      assert.equal((await heir.waitMigration()).status, "completed");
      assertSameBytes(path("image"), path("heir"));
    } finally {
      await heir.stop();
    }
  });
});
