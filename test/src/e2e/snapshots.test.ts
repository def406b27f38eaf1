/** Snapshots: QEMU loads what we write, we send what QEMU wrote, and a guest goes on from either form. */
import assert from "node:assert/strict";
import { readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { runCommandLine } from "@multifd/cli";
import { openSnapshot, type SnapshotForm } from "@multifd/peer-qemu";
import type { QemuCompression } from "@multifd/protocol";
import {
  bootGuestSector,
  checkBootGuest,
  createScratchDir,
  QemuProcess,
  type QemuVersion,
  removeScratchDir,
  sixteenMegabytes,
  waitForProgress,
  waitForSweep,
  zeroImage,
} from "../peers/index.js";
import { restore, save, type Wire } from "./saved-guest.js";

const BYTES = 32 * 2 ** 20;
const SHARED_MACHINE = "pc-i440fx-7.2";
const bootSector = bootGuestSector(sixteenMegabytes);

let dir: string;
let vms: QemuProcess[] = [];
const path = (name: string) => join(dir, name);

/** A VM whose RAM is the file `ram`. On disk, for a VM opens its snapshot itself, past the page cache if told so. */
async function start(version: QemuVersion, machine: string, ram: string, incoming?: string): Promise<QemuProcess> {
  zeroImage(path(ram), BYTES);
  const memory = [{ id: "pc.ram", path: path(ram), bytes: BYTES }];
  const vm = await QemuProcess.start({ version, machine, memory, bootSector, ...(incoming ? { incoming } : {}) });
  vms.push(vm);
  return vm;
}

/** Saves a running guest into a snapshot of ours. @returns where it stopped. */
async function saveRunning(version: QemuVersion, machine: string, form: SnapshotForm, compression: QemuCompression) {
  const source = await start(version, machine, "first");
  await waitForSweep(path("first"), 1);
  await save(source, form, path("snapshot"), { socket: path("in"), channels: 2, compression });
  return checkBootGuest(path("first"), sixteenMegabytes);
}

async function assertGoesOn(vm: QemuProcess, left: { readonly sweep: number }): Promise<void> {
  await waitForSweep(path("second"), left.sweep + 1);
  await waitForProgress(path("second"));
  await vm.execute("stop");
  assert.ok(checkBootGuest(path("second"), sixteenMegabytes).sweep > left.sweep);
}

beforeEach(() => {
  dir = createScratchDir("disk");
});
afterEach(async () => {
  await Promise.all(vms.map((vm) => vm.stop()));
  vms = [];
  removeScratchDir(dir);
});

describe("a running guest saved as mapped-ram", () => {
  const loadings: readonly (readonly [name: string, multifd: number, directIo: boolean])[] = [
    ["without multifd", 0, false],
    ["with multifd", 3, false],
    ["with multifd and direct-io", 2, true],
  ];
  const sources: readonly (readonly [QemuVersion, string, QemuCompression])[] = [
    ["11.1", "pc", "none"],
    ["11.1", "pc", "zstd"],
    ["7.2", SHARED_MACHINE, "none"],
    ["7.2", SHARED_MACHINE, "zlib"],
  ];
  for (const [version, machine, compression] of sources) {
    for (const [how, channels, directIo] of loadings) {
      it(`by QEMU ${version} (${machine}, ${compression}) goes on in QEMU 11.1, which loads it ${how}`, async () => {
        const left = await saveRunning(version, machine, "mapped-ram", compression);
        const heir = await start("11.1", machine, "second", "defer");
        await heir.setMigration({
          channels,
          capabilities: { "mapped-ram": true, "return-path": false },
          parameters: { "direct-io": directIo },
        });
        await heir.listen(`file:${path("snapshot")}`);
        assert.equal((await heir.waitMigration()).status, "completed");
        await assertGoesOn(heir, left);
      });
    }
  }
});

describe("a running guest saved and sent on", () => {
  for (const form of ["mapped-ram", "compressed"] as const) {
    for (const compression of ["none", "zlib", "zstd"] as const) {
      it(`as ${form}, over 3 channels with ${compression}, goes on in QEMU 11.1`, async () => {
        const left = await saveRunning("11.1", "pc", form, "none");
        const heir = await start("11.1", "pc", "second", "defer");
        const wire: Wire = { socket: path("out"), channels: 3, compression };
        await heir.setMigration(wire);
        await heir.listen(`unix:${wire.socket}`);
        const result = await restore(path("snapshot"), wire);
        assert.equal(result.acknowledged, true);
        await assertGoesOn(heir, left);
      });
    }
  }
});

describe("a running guest saved by QEMU 7.2 and sent on", () => {
  for (const form of ["mapped-ram", "compressed"] as const) {
    for (const version of ["7.2", "11.1"] as const) {
      it(`as ${form} goes on in QEMU ${version}`, async () => {
        const left = await saveRunning("7.2", SHARED_MACHINE, form, "zstd");
        const heir = await start(version, SHARED_MACHINE, "second", "defer");
        const wire: Wire = { socket: path("out"), channels: 2, compression: "zstd" };
        await heir.setMigration(wire);
        await heir.listen(`unix:${wire.socket}`);
        await restore(path("snapshot"), wire);
        await assertGoesOn(heir, left);
      });
    }
  }
});

describe("a snapshot converted there and back", () => {
  /** Runs the command. @returns its exit code, and what it said. */
  async function run(...words: readonly string[]): Promise<{ code: number; said: string }> {
    let said = "";
    const say = (text: string) => {
      said += text;
    };
    const terminal = { out: say, err: say, isInteractive: false, columns: () => 80 };
    return { code: await runCommandLine(["convert", ...words], terminal), said };
  }

  async function convert(...words: readonly string[]): Promise<void> {
    const { code, said } = await run(...words);
    assert.equal(code, 0, said);
  }

  /** Every page of every block, and what stands beside them. */
  async function assertSameGuest(a: string, b: string): Promise<void> {
    const [one, other] = [await openSnapshot(a), await openSnapshot(b)];
    try {
      assert.deepEqual(one.devices, other.devices);
      assert.deepEqual(one.blocks, other.blocks);
      const [left, right] = [Buffer.alloc(one.pageBytes), Buffer.alloc(one.pageBytes)];
      for (const [block, { name, pageCount }] of one.blocks.entries()) {
        for (let page = 0; page < pageCount; page++) {
          one.readPage(block, page, left);
          other.readPage(block, page, right);
          assert.ok(left.equals(right), `page ${page} of ${name}`);
        }
      }
    } finally {
      await one.close();
      await other.close();
    }
  }

  it("is the same guest, which QEMU 11.1 goes on with: begun with QEMU's own file of a running guest", async () => {
    const source = await start("11.1", "pc", "first");
    await waitForSweep(path("first"), 1);
    await source.setMigration({ channels: 2, capabilities: { "mapped-ram": true, "return-path": false } });
    await source.migrateTo(`file:${path("original")}`);
    assert.equal((await source.waitMigration()).status, "completed");
    const left = checkBootGuest(path("first"), sixteenMegabytes);

    await convert(path("original"), path("compressed"));
    await assertSameGuest(path("original"), path("compressed"));
    await convert(path("compressed"), path("again"), "--form", "compressed", "--form-level", "3");
    await assertSameGuest(path("original"), path("again"));
    await convert(path("again"), path("back"));
    await assertSameGuest(path("original"), path("back"));
    assert.equal((await openThenClose(path("compressed"))).form, "compressed");
    assert.equal((await openThenClose(path("back"))).form, "mapped-ram");

    const heir = await start("11.1", "pc", "second", "defer");
    await heir.setMigration({ channels: 2, capabilities: { "mapped-ram": true, "return-path": false } });
    await heir.listen(`file:${path("back")}`);
    assert.equal((await heir.waitMigration()).status, "completed");
    await assertGoesOn(heir, left);
  });

  it("is refused with the reason, and leaves nothing", async () => {
    const missing = await run(path("none"), path("out"));
    assert.equal(missing.code, 1);
    assert.match(missing.said, /none.*\[SYSTEM_ENOENT\]/);
    writeFileSync(path("junk"), "junk");
    const junk = await run(path("junk"), path("out"));
    assert.equal(junk.code, 1);
    assert.match(junk.said, /\[SNAPSHOT_MAGIC\]/);
    assert.ok(!readdirSync(dir).includes("out"));
  });
});

async function openThenClose(file: string) {
  const snapshot = await openSnapshot(file);
  await snapshot.close();
  return snapshot;
}

describe("a running guest that QEMU 11.1 saved itself", () => {
  for (const channels of [0, 2]) {
    it(`as mapped-ram with ${channels} channels, sent by us, goes on in another QEMU 11.1`, async () => {
      const source = await start("11.1", "pc", "first");
      await waitForSweep(path("first"), 1);
      await source.setMigration({ channels, capabilities: { "mapped-ram": true, "return-path": false } });
      await source.migrateTo(`file:${path("snapshot")}`);
      assert.equal((await source.waitMigration()).status, "completed");
      const left = checkBootGuest(path("first"), sixteenMegabytes);
      const snapshot = await openSnapshot(path("snapshot"));
      assert.equal(snapshot.form, "mapped-ram");
      await snapshot.close();

      const heir = await start("11.1", "pc", "second", "defer");
      const wire: Wire = { socket: path("out"), channels: 2, compression: "none" };
      await heir.setMigration(wire);
      await heir.listen(`unix:${wire.socket}`);
      await restore(path("snapshot"), wire);
      await assertGoesOn(heir, left);
    });
  }
});
