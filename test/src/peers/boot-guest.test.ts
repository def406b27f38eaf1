import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import {
  type BootGuest,
  bootGuestSector,
  checkBootGuest,
  checkSerialOutput,
  readBootGuest,
  sixteenMegabytes,
} from "./boot-guest.js";
import { createScratchDir, removeScratchDir } from "./scratch-dir.js";

const guest: BootGuest = { firstByte: 2 ** 20, strideBytes: 4096, pageCount: 4, pagesPerTick: 0 };

describe("boot guest", () => {
  let dir: string;
  let path: string;

  /** RAM of a guest that says it is at that sweep and page, with those counters. */
  const writeRam = (sweep: number, page: number, counters: readonly number[]) => {
    const ram = Buffer.alloc(2 ** 20 + counters.length * 4096);
    for (const [i, word] of [0x5747464d, sweep, page].entries()) ram.writeUInt32LE(word, 0x1000 + i * 4);
    for (const [i, counter] of counters.entries()) ram.writeUInt32LE(counter, 2 ** 20 + i * 4096);
    writeFileSync(path, ram);
  };

  beforeEach(() => {
    dir = createScratchDir();
    path = join(dir, "ram");
  });
  afterEach(() => removeScratchDir(dir));

  it("is one boot sector with its range written in", () => {
    const sector = Buffer.from(bootGuestSector({ ...sixteenMegabytes, pagesPerTick: 7 }));
    assert.equal(sector.length, 512);
    assert.equal(sector.readUInt16LE(510), 0xaa55);
    assert.deepEqual(
      [0, 4, 8, 12].map((at) => sector.readUInt32LE(0x1a0 + at)),
      [2 ** 20, 4096, 4096, 7],
    );
  });

  it("refuses a range that the firmware uses or that is no longer at its file offset", () => {
    assert.throws(() => bootGuestSector({ ...guest, firstByte: 0x8000 }), RangeError);
    assert.throws(() => bootGuestSector({ ...guest, firstByte: 3 * 2 ** 30 }), RangeError);
  });

  it("has not begun while its magic is missing", () => {
    writeFileSync(path, Buffer.alloc(2 ** 20 + 4 * 4096));
    assert.equal(readBootGuest(path), null);
    assert.throws(() => checkBootGuest(path, guest), /never begun/);
  });

  it("may stop before, within and after a sweep, and between its writes", () => {
    for (const [page, counters] of [
      [0, [5, 5, 5, 5]],
      [0, [6, 5, 5, 5]],
      [2, [6, 6, 5, 5]],
      [2, [6, 6, 6, 5]],
      [4, [6, 6, 6, 6]],
      [4, [5, 5, 5, 5]],
    ] as const) {
      writeRam(5, page, counters);
      assert.deepEqual(checkBootGuest(path, guest), { sweep: 5, page });
    }
  });

  it("is caught with a page that is lost, stale, or newer than the rest", () => {
    writeRam(5, 2, [6, 6, 4, 5]);
    assert.throws(() => checkBootGuest(path, guest), /page 2 of its range holds 4, due 5/);
    writeRam(5, 3, [6, 0, 6, 5]);
    assert.throws(() => checkBootGuest(path, guest), /page 1 of its range holds 0, due 6/);
    writeRam(5, 1, [6, 5, 5, 6]);
    assert.throws(() => checkBootGuest(path, guest), /page 3 of its range holds 6, due 5/);
  });

  it("is caught with a state page that does not belong to its counters", () => {
    writeRam(5, 1, [6, 6, 6, 5]);
    assert.throws(() => checkBootGuest(path, guest), /3 pages are counted/);
  });

  it("has printed its sweeps in sequence, whole or cut by a move, or is caught", () => {
    const second = join(dir, "second");
    writeFileSync(path, "00000001\n000000");
    writeFileSync(second, "02\n00000003\n0000");
    assert.equal(checkSerialOutput(path, second), 3);
    for (const gap of ["2\n", "03\n", "02\n00000002\n", "02\n00000004\n"]) {
      writeFileSync(second, gap);
      assert.throws(() => checkSerialOutput(path, second), /line [23] is/, gap);
    }
  });
});
