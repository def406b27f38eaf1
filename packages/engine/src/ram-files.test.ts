import assert from "node:assert/strict";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describeRamBlock } from "@multifd/memory";
import { partialPath } from "./partial-file.js";
import { RamFiles, type SavedGuest } from "./ram-files.js";

const BYTES = 16 * 4096;
const block = describeRamBlock("pc.ram", BYTES, 4096)!;
const rom = describeRamBlock("pc.rom", 8192, 4096)!;
const devices = {
  machineType: "pc",
  ramSectionId: 2,
  configuration: Uint8Array.of(7),
  sections: Uint8Array.of(0),
};

describe("RAM files", () => {
  let dir: string;
  const path = (name: string) => join(dir, name);
  const files = (save: ((saved: SavedGuest) => Promise<void>) | null = null) =>
    new RamFiles(new Map([["pc.ram", path("ram")]]), save);
  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), "multifd-"));
  });
  afterEach(() => rmSync(dir, { recursive: true }));

  it("writes a new file under another name until it is whole", async () => {
    const guest = files();
    const [placement] = await guest.placeRam([block]);
    assert.deepEqual([placement?.through, placement?.startsZeroed], ["file", true]);
    writeSync(placement!.descriptor, Buffer.from("page"), 0, 4, 4096);
    assert.deepEqual(readdirSync(dir), ["ram.partial"]);
    await guest.loadDevices(devices);
    await guest.commit();
    assert.deepEqual(readdirSync(dir), ["ram"]);
    const bytes = readFileSync(path("ram"));
    assert.deepEqual([bytes.length, bytes.toString("latin1", 4096, 4100)], [BYTES, "page"]);
  });

  it("leaves no file behind when a migration into a new one fails", async () => {
    const guest = files();
    await guest.placeRam([block]);
    await guest.abandon();
    assert.deepEqual(readdirSync(dir), []);
  });

  it("writes a file in place that is there already, and empties it when the migration fails", async () => {
    writeFileSync(path("ram"), Buffer.alloc(BYTES, 0xaa));
    const guest = files();
    const [placement] = await guest.placeRam([block]);
    assert.equal(placement?.startsZeroed, false);
    assert.equal(existsSync(partialPath(path("ram"))), false);
    await guest.abandon();
    assert.ok(readFileSync(path("ram")).equals(Buffer.alloc(BYTES)));
  });

  it("leaves a file as it is that it refuses", async () => {
    writeFileSync(path("ram"), Buffer.alloc(4096, 0xaa));
    const guest = files();
    await assert.rejects(guest.placeRam([block]), { name: "ConfigError", code: "RAM_SIZE_MISMATCH" });
    await guest.abandon();
    assert.ok(readFileSync(path("ram")).equals(Buffer.alloc(4096, 0xaa)));
  });

  it("refuses a name that the source does not have, and says which it has", async () => {
    const guest = files();
    await assert.rejects(guest.placeRam([rom]), {
      code: "RAM_BLOCK_UNKNOWN",
      message: /no RAM block "pc.ram"; it has "pc.rom" \(8192 bytes\)/,
    });
    await guest.abandon();
    assert.deepEqual(readdirSync(dir), []);
  });

  it("hands blocks that nobody named to whoever saves the devices, in the stream's order", async () => {
    let saved: string[] = [];
    const guest = files(async ({ blocks, kept, devices: part }) => {
      saved = [...blocks.map(({ name }) => name), ...kept.map(({ block: { name } }) => name), part.machineType];
    });
    await guest.placeRam([rom, block]);
    await guest.loadDevices(devices);
    await guest.commit();
    assert.deepEqual(saved, ["pc.rom", "pc.ram", "pc.rom", "pc"]);
  });

  it("takes back a file that has its name already when the devices cannot be saved", async () => {
    const guest = files(() => Promise.reject(new Error("disk full")));
    await guest.placeRam([block]);
    await guest.loadDevices(devices);
    await assert.rejects(guest.commit(), /disk full/);
    await guest.abandon();
    assert.deepEqual(readdirSync(dir), []);
  });

  it("refuses a device's state, which files cannot load", async () => {
    const device = { idstr: "0000:00:03.0/vfio", instanceId: 0 };
    await assert.rejects(files().loadDeviceState(device), { code: "DEVICE_STATE_UNEXPECTED", message: /vfio/ });
  });
});
