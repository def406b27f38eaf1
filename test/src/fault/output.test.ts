/** Files that a migration was to go into, when it cannot: untouched, emptied or gone, never half a guest. */
import assert from "node:assert/strict";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { createScratchDir, removeScratchDir, zeroImage } from "../peers/index.js";
import type { Recording } from "../recorder.js";
import { FIELD, findPacket, patchWords } from "./packet-walk.js";
import { RAM_BYTES, recordQemu } from "./recordings.js";
import { assertRefusedIn, type DueRefusal, outputPaths } from "./refusal.js";
import { mountSmallDisk, unmountSmallDisk } from "./small-disk.js";

const OLD_BYTE = 0xa5;
const DISK_BYTES = 4 * 2 ** 20;
const full: DueRefusal = { code: "SYSTEM_ENOSPC", says: /no space left on device/i };

describe("a migration that fails", function () {
  this.timeout(20_000);
  let recording: Recording;
  let spoilt: { readonly recording: Recording; readonly faults: object };
  let dir: string;
  const midStream: DueRefusal = { code: "MULTIFD_OFFSET_OUTSIDE", says: /channel [01], packet \d+/ };

  before(async () => {
    recording = await recordQemu("11.1", "none");
    // The last packet with pages: most of the guest has arrived by then.
    const last = findPacket(recording, ({ normalPages, ramBlock }) => normalPages > 0 && ramBlock === "pc.bios");
    spoilt = { recording, faults: { patch: [patchWords(last, FIELD.offsets, 1, 0)] } };
  });
  beforeEach(() => {
    dir = createScratchDir();
  });
  afterEach(() => removeScratchDir(dir));

  it("leaves no new file", async () => {
    await assertRefusedIn(dir, spoilt, midStream);
    assert.deepEqual(readdirSync(dir), []);
  });

  it("leaves a file that was there as zeros of the same length", async () => {
    const { ram } = outputPaths(dir);
    writeFileSync(ram, Buffer.alloc(RAM_BYTES, OLD_BYTE));
    await assertRefusedIn(dir, spoilt, midStream);
    assert.ok(readFileSync(ram).equals(Buffer.alloc(RAM_BYTES)), "neither old nor new bytes");
    assert.deepEqual(readdirSync(dir), ["ram"]);
  });

  it("leaves a file untouched whose size is not its RAM block's", async () => {
    const { ram } = outputPaths(dir);
    writeFileSync(ram, Buffer.alloc(RAM_BYTES / 2, OLD_BYTE));
    await assertRefusedIn(
      dir,
      { recording },
      {
        code: "RAM_SIZE_MISMATCH",
        says: /ram has 4194304 bytes, RAM block "pc.ram" has 8388608; .*same memory size/,
      },
    );
    assert.ok(readFileSync(ram).equals(Buffer.alloc(RAM_BYTES / 2, OLD_BYTE)));
  });

  it("leaves the files of other blocks untouched when one has the wrong size", async () => {
    const { ram } = outputPaths(dir);
    const bios = join(dir, "bios");
    writeFileSync(ram, Buffer.alloc(RAM_BYTES, OLD_BYTE));
    writeFileSync(bios, Buffer.alloc(4096, OLD_BYTE));
    await assertRefusedIn(
      dir,
      { recording, receiver: { ram: { "pc.ram": ram, "pc.bios": bios } } },
      { code: "RAM_SIZE_MISMATCH", says: /bios has 4096 bytes, RAM block "pc.bios" has/ },
    );
    assert.ok(readFileSync(ram).equals(Buffer.alloc(RAM_BYTES, OLD_BYTE)));
    assert.ok(readFileSync(bios).equals(Buffer.alloc(4096, OLD_BYTE)));
  });

  it("leaves no file when a RAM block was named that the source does not have", async () => {
    const { ram } = outputPaths(dir);
    await assertRefusedIn(
      dir,
      { recording, receiver: { ram: { "pc.ram": ram, "vga.vram": join(dir, "vga") } } },
      { code: "RAM_BLOCK_UNKNOWN", says: /the source has no RAM block "vga.vram"; it has "pc.ram" \(8388608 bytes\)/ },
    );
    assert.deepEqual(readdirSync(dir), []);
  });

  it("leaves no file when its directory is not there", async () => {
    await assertRefusedIn(
      dir,
      { recording, receiver: { ram: { "pc.ram": join(dir, "none", "ram") } } },
      { code: "SYSTEM_ENOENT", says: /none\/ram.*ENOENT/ },
    );
  });

  it("leaves no RAM file when the device part cannot be written", async () => {
    const devices = join(dir, "none", "devices");
    await assertRefusedIn(dir, { recording, receiver: { devices } }, { code: "SYSTEM_ENOENT", says: /none\/devices/ });
    assert.deepEqual(readdirSync(dir), []);
  });

  it("leaves a RAM file that was there as zeros when the device part cannot be written", async () => {
    const { ram } = outputPaths(dir);
    zeroImage(ram, RAM_BYTES);
    const devices = join(dir, "none", "devices");
    await assertRefusedIn(dir, { recording, receiver: { devices } }, { code: "SYSTEM_ENOENT", says: /none\/devices/ });
    assert.ok(readFileSync(ram).equals(Buffer.alloc(RAM_BYTES)));
  });

  describe("for want of space", () => {
    let disk: string;
    beforeEach(() => {
      disk = mountSmallDisk(DISK_BYTES);
    });
    afterEach(() => unmountSmallDisk(disk));

    /** Leaves fewer bytes than the guest's pages take. */
    const fill = (bytesLeft: number) => writeFileSync(join(disk, "filler"), Buffer.alloc(DISK_BYTES - bytesLeft, 1));

    it("leaves no new RAM file on the full disk", async () => {
      fill(2 ** 20);
      await assertRefusedIn(dir, { recording, receiver: { ram: { "pc.ram": join(disk, "ram") } } }, full);
      assert.deepEqual(readdirSync(disk), ["filler"]);
    });

    it("leaves a RAM file that was there as zeros on the full disk", async () => {
      zeroImage(join(disk, "ram"), RAM_BYTES);
      fill(2 ** 20);
      await assertRefusedIn(dir, { recording, receiver: { ram: { "pc.ram": join(disk, "ram") } } }, full);
      assert.ok(readFileSync(join(disk, "ram")).equals(Buffer.alloc(RAM_BYTES)));
    });

    it("leaves neither device part nor RAM file when the device part does not fit", async () => {
      fill(16 * 1024);
      await assertRefusedIn(dir, { recording, receiver: { devices: join(disk, "devices") } }, full);
      assert.deepEqual([readdirSync(disk), readdirSync(dir)], [["filler"], []]);
    });
  });
});
