/** Snapshots written page by page without a migration, and read back: both forms, and what only one of them has. */
import assert from "node:assert/strict";
import {
  closeSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { crc32 } from "node:zlib";
import { FrameWriter } from "@multifd/dataplane";
import type { DevicePart, RamPlacement } from "@multifd/engine";
import { describeRamBlock, type RamBlock } from "@multifd/memory";
import { writeMemory } from "@multifd/native";
import {
  emptyVmDescription,
  encodeConfiguration,
  encodeStreamEnd,
  FRAME_UNIT_BYTES,
  parseUuid,
  snapshotIndexHeader,
  snapshotTrailer,
} from "@multifd/protocol";
import { CompressedWriter } from "./compressed-writer.js";
import { MappedRamWriter } from "./mapped-ram-writer.js";
import { openSnapshot } from "./open-snapshot.js";
import type { Snapshot, SnapshotForm } from "./snapshot.js";

const PAGE = 4096;
const uuid = parseUuid("01234567-89ab-cdef-0123-456789abcdef");
const devices: DevicePart = {
  machineType: "pc-q35-11.1",
  ramSectionId: 2,
  configuration: encodeConfiguration({ machineType: "pc-q35-11.1", uuid }),
  sections: encodeStreamEnd(emptyVmDescription(PAGE)),
};
/** More pages than one frame holds entries of a page map, and a number that fills no 64-bit word. */
const blocks: readonly RamBlock[] = [
  describeRamBlock("pc.ram", 300_001 * PAGE, PAGE)!,
  describeRamBlock("pc.bios", 3 * PAGE, PAGE)!,
];

/** Something else for every page, and hard to compress. */
function pageBytes(block: number, page: number, version = 0): Buffer {
  const out = Buffer.alloc(PAGE);
  let state = (block + 1) * 7919 + page * 31 + version * 1_000_003 + 1;
  for (let at = 0; at < PAGE; at += 4) {
    state = Math.imul(state ^ (state >>> 15), 0x2c1b_3c6d) + at;
    out.writeInt32LE(state | 0, at);
  }
  return out;
}

/** Writes pages as the channel threads do. */
function put(placements: readonly RamPlacement[], block: number, pages: readonly number[], version = 0): void {
  const { descriptor, fileOffsetBytes = 0, present, frames } = placements[block]!;
  if (frames === undefined) {
    const bits = new Int32Array(present!);
    for (const page of pages) {
      writeSync(descriptor, pageBytes(block, page, version), 0, PAGE, fileOffsetBytes + page * PAGE);
      bits[page >>> 5]! |= 1 << (page & 31);
    }
    return;
  }
  const writer = new FrameWriter(frames.log);
  writeMemory(writer.window.mapping, 0, Buffer.concat(pages.map((page) => pageBytes(block, page, version))));
  writer.writePages(block, Uint32Array.from(pages), pages.length, PAGE, new Int32Array(frames.pageMap));
  writer.free();
}

describe("snapshot files", () => {
  let dir: string;
  let path: string;
  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), "multifd-"));
    path = join(dir, "snapshot");
  });
  afterEach(() => rmSync(dir, { recursive: true }));

  const writerOf = (form: SnapshotForm) =>
    form === "compressed" ? new CompressedWriter(path, 1) : new MappedRamWriter(path);

  async function write(form: SnapshotForm, fill: (placements: readonly RamPlacement[]) => void): Promise<void> {
    const writer = writerOf(form);
    const placements = await writer.placeRam(blocks);
    fill(placements);
    await writer.loadDevices(devices);
    await writer.commit();
  }

  async function withSnapshot<T>(use: (snapshot: Snapshot) => T): Promise<T> {
    const snapshot = await openSnapshot(path);
    try {
      return use(snapshot);
    } finally {
      await snapshot.close();
    }
  }

  function page(snapshot: Snapshot, block: number, index: number): Buffer {
    const out = Buffer.alloc(PAGE, 0xee);
    snapshot.readPage(block, index, out);
    return out;
  }

  for (const form of ["mapped-ram", "compressed"] as const) {
    it(`hold every page, the guest's name and its devices, and nothing else: ${form}`, async () => {
      const held = [0, 1, 131_071, 131_072, 299_999, 300_000];
      await write(form, (placements) => {
        put(placements, 0, held);
        put(placements, 1, [2]);
      });
      assert.deepEqual(readdirSync(dir), ["snapshot"]);
      await withSnapshot((snapshot) => {
        assert.deepEqual(
          [snapshot.form, snapshot.machineType, snapshot.pageBytes, snapshot.capabilities],
          [form, "pc-q35-11.1", PAGE, []],
        );
        assert.deepEqual(Buffer.from(snapshot.uuid!), Buffer.from(uuid));
        assert.deepEqual(snapshot.blocks, blocks);
        assert.deepEqual(snapshot.devices, devices);
        assert.deepEqual([snapshot.countPages(0), snapshot.countPages(1)], [held.length, 1]);
        for (const index of held) assert.deepEqual(page(snapshot, 0, index), pageBytes(0, index));
        assert.deepEqual(page(snapshot, 1, 2), pageBytes(1, 2));
        for (const index of [2, 150_000]) {
          assert.equal(snapshot.hasPage(0, index), false);
          assert.deepEqual(page(snapshot, 0, index), Buffer.alloc(PAGE));
        }
      });
    });

    it(`are there under their name only when they are whole: ${form}`, async () => {
      const writer = writerOf(form);
      const placements = await writer.placeRam(blocks);
      put(placements, 0, [1]);
      assert.deepEqual(readdirSync(dir), ["snapshot.partial"]);
      await writer.abandon();
      assert.deepEqual(readdirSync(dir), []);
    });

    it(`leave an older file alone until they are whole: ${form}`, async () => {
      writeFileSync(path, "older");
      const writer = writerOf(form);
      await writer.placeRam(blocks);
      await writer.abandon();
      assert.equal(readFileSync(path, "utf8"), "older");
      await write(form, () => {});
      await withSnapshot((snapshot) => assert.equal(snapshot.countPages(0), 0));
    });

    it(`are refused wherever they are cut: ${form}`, async () => {
      await write(form, (placements) => put(placements, 0, [5, 6]));
      const { size } = statSync(path);
      for (const part of [0, 3, 20, 4095, 70_000, size / 3, size / 2, size - 200, size - 33, size - 1]) {
        const length = Math.floor(Math.min(part, size - 1));
        truncateSync(path, length);
        await assert.rejects(openSnapshot(path), (error: { code: string; message: string }) => {
          assert.match(error.code, /^SNAPSHOT_(CUT|MAGIC)$/, `cut at ${length}: ${error.message}`);
          return error.message.startsWith(path);
        });
        await write(form, (placements) => put(placements, 0, [5, 6]));
      }
    });
  }

  it("are told from other files", async () => {
    writeFileSync(path, "neither");
    await assert.rejects(openSnapshot(path), { code: "SNAPSHOT_MAGIC" });
    writeFileSync(path, "");
    await assert.rejects(openSnapshot(path), { code: "SNAPSHOT_MAGIC" });
    await assert.rejects(openSnapshot(join(dir, "none")), { code: "SYSTEM_ENOENT" });
    await assert.rejects(openSnapshot(dir), { code: "SYSTEM_EISDIR" });
  });

  it("give the room of frames that count no more back", async () => {
    const pages = Array.from({ length: 128 }, (_, index) => index);
    await write("compressed", (placements) => {
      for (let version = 0; version < 5; version++) put(placements, 0, pages, version);
      put(placements, 0, [3, 500], 5);
    });
    const { blocks: sectors, size } = statSync(path);
    assert.ok(size > 5 * 2 ** 19, "every version was appended");
    assert.ok(sectors * 512 < 2 * 2 ** 19, `${sectors * 512} bytes are kept`);
    await withSnapshot((snapshot) => {
      assert.deepEqual(page(snapshot, 0, 3), pageBytes(0, 3, 5));
      assert.deepEqual(page(snapshot, 0, 4), pageBytes(0, 4, 4));
      assert.equal(snapshot.countPages(0), 129);
    });
  });

  describe("damaged on purpose, checksums put right", () => {
    beforeEach(() => write("compressed", (placements) => put(placements, 0, [5, 6])));

    /** Changes index and trailer and seals both. */
    function reseal(change: (index: Buffer, trailer: Buffer) => void): void {
      const bytes = readFileSync(path);
      const trailer = bytes.subarray(bytes.length - snapshotTrailer.size);
      const { indexOffset } = snapshotTrailer.decode(trailer);
      const index = bytes.subarray(indexOffset, bytes.length - snapshotTrailer.size);
      change(index, trailer);
      for (const part of [index, trailer])
        part.writeUInt32BE(crc32(part.subarray(32), crc32(part.subarray(0, 28))), 28);
      const file = openSync(path, "w");
      writeSync(file, bytes);
      closeSync(file);
    }

    const firstList = snapshotIndexHeader.size;
    const cases: [what: string, change: (index: Buffer, trailer: Buffer) => void, says: RegExp][] = [
      ["an index beyond the file", (_, trailer) => trailer.writeBigUInt64BE(2n ** 40n, 8), /trailer: an index of/],
      ["an index of 4 GiB", (_, trailer) => trailer.writeUInt32BE(0xffff_ffff, 4), /trailer: an index of 4294967295/],
      ["an index off its unit", (_, trailer) => trailer.writeBigUInt64BE(BigInt(FRAME_UNIT_BYTES + 1), 8), /trailer/],
      ["more blocks than lists", (index) => index.writeUInt32BE(0xffff_ffff, 4), /lists of 4294967295 blocks/],
      ["a stream longer than the index", (index) => index.writeUInt32BE(0xffff_ffff, 8), /index: its lists/],
      ["a list longer than the index", (index) => index.writeUInt32BE(0xffff_ffff, firstList), /index: its lists/],
      ["a page map in the file header", (index) => index.writeUInt32BE(0, firstList + 4), /unit 0 lies outside/],
      ["a page map behind the frames", (index) => index.writeUInt32BE(9999, firstList + 4), /unit 9999 lies outside/],
      [
        "a page map where pages are",
        (index) => index.writeUInt32BE(1, firstList + 4),
        /frame at byte 4096: it is of kind 1/,
      ],
    ];
    for (const [what, change, says] of cases) {
      it(`they are refused with ${what}`, async () => {
        reseal(change);
        await assert.rejects(openSnapshot(path), { code: "SNAPSHOT_DAMAGED", message: says });
      });
    }

    it("they are refused where a checksum alone is wrong, naming what it covers", async () => {
      const whole = readFileSync(path);
      const at: [number, RegExp][] = [
        [13, /file header/],
        [whole.length - 60, /index/],
        [whole.length - 30, /trailer/],
      ];
      for (const [offset, says] of at) {
        const bytes = Buffer.from(whole);
        bytes[offset]! ^= 1;
        writeFileSync(path, bytes);
        await assert.rejects(openSnapshot(path), { code: /^SNAPSHOT_/, message: says });
      }
    });
  });
});
