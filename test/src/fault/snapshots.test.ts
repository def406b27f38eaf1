/** Snapshots that cannot be written, are damaged, or hold what no longer counts: refused with the place, or told right. */
import assert from "node:assert/strict";
import {
  closeSync,
  copyFileSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  rmSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { join } from "node:path";
import { formatAddress } from "@multifd/channel";
import type { RamPlacement } from "@multifd/engine";
import { describeRamBlock } from "@multifd/memory";
import { openSnapshot, type Snapshot, type SnapshotForm } from "@multifd/peer-qemu";
import {
  emptyVmDescription,
  encodeConfiguration,
  encodeStreamEnd,
  MigrationError,
  snapshotTrailer,
} from "@multifd/protocol";
import { startReceiver } from "../e2e/receiver.js";
import { restore, startSaver, type Wire, writerOf } from "../e2e/saved-guest.js";
import { createScratchDir, removeScratchDir } from "../peers/index.js";
import type { Recording } from "../recorder.js";
import { type Faults, replayMigration } from "../replayer.js";
import { RAM_BYTES, RAM_PAGES, recordQemu, sparseImage } from "./recordings.js";
import { ownError } from "./refusal.js";
import { mountSmallDisk, unmountSmallDisk } from "./small-disk.js";

const PAGE = 4096;
const forms: readonly SnapshotForm[] = ["mapped-ram", "compressed"];

describe("a snapshot", function () {
  this.timeout(30_000);
  let recording: Recording;
  let dir: string;
  let image: Buffer;
  const path = (name: string) => join(dir, name);
  const wire = (): Wire => ({ socket: path("socket"), channels: 2, compression: "none" });

  before(async () => {
    recording = await recordQemu("11.1", "none");
  });
  beforeEach(() => {
    dir = createScratchDir();
    sparseImage(path("image"));
    image = readFileSync(path("image"));
    rmSync(path("image"));
  });
  afterEach(() => removeScratchDir(dir));

  /** Replays the recording into a snapshot at `to`. @returns the error that it was refused with, or null. */
  async function take(form: SnapshotForm, to: string, faults: Faults = {}): Promise<MigrationError | null> {
    const saver = await startSaver(form, to, wire());
    const replayed = replayMigration(formatAddress(saver.address), recording, faults);
    const [ended, { shut }] = await Promise.all([saver.result.then(() => null, ownError), replayed]);
    assert.equal(shut === 0, ended === null, "the source is told the truth");
    return ended;
  }

  function readPages(snapshot: Snapshot): Buffer {
    const ram = Buffer.alloc(RAM_BYTES);
    const block = snapshot.blocks.findIndex(({ name }) => name === "pc.ram");
    for (let page = 0; page < RAM_PAGES; page++)
      snapshot.readPage(block, page, ram.subarray(page * PAGE, (page + 1) * PAGE));
    return ram;
  }

  async function readRam(file: string): Promise<Buffer> {
    const snapshot = await openSnapshot(file);
    try {
      return readPages(snapshot);
    } finally {
      await snapshot.close();
    }
  }

  for (const form of forms) {
    it(`has every byte of the guest's RAM: ${form}`, async () => {
      assert.equal(await take(form, path("snapshot")), null);
      assert.ok((await readRam(path("snapshot"))).equals(image));
    });

    it(`is not there when the stream was cut: ${form}`, async () => {
      const bytes = recording.channels[1]!.length >> 1;
      const ended = await take(form, path("snapshot"), { cutChannelAt: { channel: 1, bytes } });
      assert.match(ended!.code, /^CHANNEL_/);
      const main = await take(form, path("snapshot"), { cutMainAt: recording.main.length - 7 });
      assert.equal(main!.code, "STREAM_CUT");
      assert.deepEqual(readdirSync(dir), []);
    });

    it(`is not there when the disk is full, whatever did not fit: ${form}`, async () => {
      for (const bytesLeft of [8192, 64 * 1024, 130 * 1024]) {
        const disk = mountSmallDisk(4 * 2 ** 20);
        try {
          writeFileSync(join(disk, "filler"), Buffer.alloc(4 * 2 ** 20 - bytesLeft, 1));
          const ended = await take(form, join(disk, "snapshot"));
          assert.equal(ended?.code, "SYSTEM_ENOSPC", `${bytesLeft} bytes left: ${ended?.message}`);
          assert.deepEqual(readdirSync(disk), ["filler"]);
        } finally {
          unmountSmallDisk(disk);
        }
      }
    });

    it(`is whole or not there, whichever of its last pages does not fit: ${form}`, async () => {
      // In mapped-ram the bitmap is written last, here of several pages, and calls every page of the sparse file there.
      const block = describeRamBlock("pc.ram", 512 * 2 ** 20, PAGE)!;
      const devices = {
        machineType: "pc",
        ramSectionId: 2,
        configuration: encodeConfiguration({ machineType: "pc" }),
        sections: encodeStreamEnd(emptyVmDescription(PAGE)),
      };
      const disk = mountSmallDisk(2 ** 20);
      const outcomes: string[] = [];
      try {
        for (let pages = 1; !outcomes.includes("whole"); pages++) {
          writeFileSync(join(disk, "filler"), Buffer.alloc(2 ** 20 - pages * PAGE, 1));
          const writer = writerOf(form, join(disk, "snapshot"));
          try {
            const [{ present = new SharedArrayBuffer(0) }] = (await writer.placeRam([block])) as [RamPlacement];
            new Int32Array(present).fill(-1);
            await writer.loadDevices(devices);
            await writer.commit();
            const snapshot = await openSnapshot(join(disk, "snapshot"));
            outcomes.push(snapshot.countPages(0) === present.byteLength * 8 ? "whole" : "in part");
            await snapshot.close();
          } catch (error) {
            await writer.abandon();
            outcomes.push(ownError(error).code);
            assert.deepEqual(readdirSync(disk), ["filler"]);
          }
          rmSync(join(disk, "snapshot"), { force: true });
        }
      } finally {
        unmountSmallDisk(disk);
      }
      assert.ok(outcomes.length > 1, "it did not fit at first");
      assert.deepEqual(new Set(outcomes.slice(0, -1)), new Set(["SYSTEM_ENOSPC"]));
    });

    it(`is not there when its directory is not: ${form}`, async () => {
      assert.equal((await take(form, path("none/snapshot")))?.code, "SYSTEM_ENOENT");
    });
  }

  it("in the compressed form shows any byte that was changed, or is as good as before", async () => {
    assert.equal(await take("compressed", path("snapshot")), null);
    const whole = readFileSync(path("snapshot"));
    const file = openSync(path("snapshot"), "r+");
    let refused = 0;
    const step = Math.floor(whole.length / 200) | 1;
    try {
      for (let at = 0; at < whole.length; at += at < 48 || at > whole.length - 64 ? 1 : step) {
        writeSync(file, Buffer.of(whole[at]! ^ 0x40), 0, 1, at);
        const outcome = await readRam(path("snapshot")).catch(ownError);
        if (outcome instanceof MigrationError) {
          refused++;
          assert.match(outcome.code, /^SNAPSHOT_/, `byte ${at}: ${outcome.message}`);
        } else {
          assert.ok(outcome.equals(image), `byte ${at} was changed, and so were pages`);
        }
        writeSync(file, whole, at, 1, at);
      }
    } finally {
      closeSync(file);
    }
    assert.ok(refused > 150, `${refused} changes were seen`);
  });

  it("as mapped-ram is refused, or read, with any byte of its head changed: never worse", async () => {
    assert.equal(await take("mapped-ram", path("snapshot")), null);
    const file = openSync(path("snapshot"), "r+");
    const head = Buffer.alloc(200);
    readSync(file, head, 0, head.length, 0);
    let refused = 0;
    try {
      for (const [at, byte] of head.entries()) {
        for (const bit of [0x01, 0x80]) {
          writeSync(file, Buffer.of(byte ^ bit), 0, 1, at);
          const outcome = await openSnapshot(path("snapshot")).catch(ownError);
          if (outcome instanceof MigrationError) refused++;
          else await outcome.close();
        }
        writeSync(file, head, at, 1, at);
      }
    } finally {
      closeSync(file);
    }
    assert.ok(refused > 100, `${refused} changes were refused`);
  });

  it("that is damaged gives the destination no guest, and the frame is named", async () => {
    assert.equal(await take("compressed", path("snapshot")), null);
    const bytes = readFileSync(path("snapshot"));
    bytes[4096 + 700]! ^= 1; // in the first frame's pages
    writeFileSync(path("snapshot"), bytes);
    const receiver = await startReceiver({
      listen: `unix:${path("socket")}`,
      channels: 2,
      compression: "zstd",
      ram: { "pc.ram": path("ram") },
    });
    const [sent, received] = await Promise.all([
      restore(path("snapshot"), { ...wire(), compression: "zstd" }).then(() => null, ownError),
      receiver.result.then(() => null, ownError),
    ]);
    assert.equal(sent?.code, "SNAPSHOT_DAMAGED");
    assert.match(sent.message, /channel [01]: frame at byte 4096: its checksum is wrong/);
    assert.ok(received !== null);
    assert.deepEqual(readdirSync(dir), ["snapshot"]);
  });

  it("whose bitmap calls a page zero is sent so, whatever lies in the page's place, over whatever was there", async () => {
    assert.equal(await take("mapped-ram", path("snapshot")), null);
    const snapshot = await openSnapshot(path("snapshot"));
    const block = snapshot.blocks.findIndex(({ name }) => name === "pc.ram");
    const { offsetBytes } = snapshot.ram[block]!;
    await snapshot.close();
    // The first block's bitmap is where ours always is; page 8 to 15 are struck off, their bytes stay.
    const bitmapAt = 2 ** 16;
    const file = openSync(path("snapshot"), "r+");
    const before = Buffer.alloc(1);
    readSync(file, before, 0, 1, bitmapAt + 1);
    writeSync(file, Buffer.of(0), 0, 1, bitmapAt + 1);
    const kept = Buffer.alloc(8 * PAGE);
    readSync(file, kept, 0, kept.length, offsetBytes + 8 * PAGE);
    closeSync(file);
    assert.deepEqual([before[0], kept.equals(image.subarray(8 * PAGE, 16 * PAGE))], [0xff, true]);

    writeFileSync(path("ram"), Buffer.alloc(RAM_BYTES, 0xa5));
    const ram = { "pc.ram": path("ram") };
    const receiver = await startReceiver({ listen: `unix:${path("socket")}`, channels: 2, compression: "none", ram });
    await Promise.all([restore(path("snapshot"), wire()), receiver.result]);
    const due = Buffer.from(image);
    due.fill(0, 8 * PAGE, 16 * PAGE);
    assert.ok(readFileSync(path("ram")).equals(due));
  });

  it("that is cut behind its trailer's place is told from one that is whole", async () => {
    assert.equal(await take("compressed", path("snapshot")), null);
    copyFileSync(path("snapshot"), path("longer"));
    writeFileSync(path("longer"), Buffer.alloc(snapshotTrailer.size), { flag: "a" });
    const ended = await readRam(path("longer")).catch(ownError);
    assert.ok(ended instanceof MigrationError && ended.code === "SNAPSHOT_CUT");
  });
});
