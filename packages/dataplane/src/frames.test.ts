/** Frames: what the writer appends, found by the reader, and decoded by a codec that is not ours. */
import assert from "node:assert/strict";
import { closeSync, fstatSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { crc32 } from "node:zlib";
import { decompress } from "@mongodb-js/zstd";
import { PacketBlock, readMemory, writeMemory } from "@multifd/native";
import { FRAME_KIND, FRAME_UNIT_BYTES, frameHeader } from "@multifd/protocol";
import { filledPage, PAGE } from "./fixture.js";
import { createFrameLog, createPageMap, type FrameLog, frameLogEnd } from "./frame-log.js";
import { type FrameDue, FrameReader } from "./frame-reader.js";
import { FrameWriter } from "./frame-writer.js";

const PAGES = 1000;

describe("frames", () => {
  let dir: string;
  let file: number;
  let log: FrameLog;
  let writer: FrameWriter;
  let reader: FrameReader;
  let pageMap: Int32Array;
  const path = () => join(dir, "log");

  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), "multifd-"));
    file = openSync(path(), "w+");
    log = createFrameLog(file, 1);
    writer = new FrameWriter(log);
    reader = new FrameReader(file, new PacketBlock());
    pageMap = new Int32Array(createPageMap(PAGES));
  });
  afterEach(() => {
    writer.free();
    reader.free();
    closeSync(file);
    rmSync(dir, { recursive: true });
  });

  /** Appends pages of block 3. @returns the frame's unit. */
  function append(pages: readonly (readonly [number, Uint8Array])[]): number {
    const unit = frameLogEnd(log);
    writeMemory(writer.window.mapping, 0, Buffer.concat(pages.map(([, bytes]) => bytes)));
    writer.writePages(
      3,
      Uint32Array.from(pages, ([page]) => page),
      pages.length,
      PAGE,
      pageMap,
    );
    return unit;
  }

  const due = (unit: number, changes: Partial<FrameDue> = {}): FrameDue => {
    return { unit, kind: FRAME_KIND.pages, block: 3, pageBytes: PAGE, pageCount: PAGES, ...changes };
  };

  function read(unit: number): Map<number, Buffer> {
    const frame = reader.read(due(unit));
    reader.decode(due(unit), frame);
    const found = new Map<number, Buffer>();
    for (const [slot, page] of frame.pages.entries()) {
      const bytes = Buffer.alloc(PAGE);
      readMemory(reader.window.mapping, slot * PAGE, bytes);
      found.set(page, bytes);
    }
    return found;
  }

  /** One frame of three pages, changed byte by byte. */
  function spoil(at: number, change: (byte: number) => number): void {
    const bytes = readFileSync(path());
    bytes[at] = change(bytes[at]!);
    writeFileSync(path(), bytes);
  }

  /** Puts the checksum right again after a change, as somebody hostile would. */
  function seal(at: number): void {
    const bytes = readFileSync(path());
    const { pages, payloadBytes } = frameHeader.decode(bytes, at);
    const end = at + frameHeader.size + 4 * pages + payloadBytes;
    bytes.writeUInt32BE(crc32(bytes.subarray(at + 32, end), crc32(bytes.subarray(at, at + 28))), at + 28);
    writeFileSync(path(), bytes);
  }

  it("begin at whole units behind the file's header, and hold pages in any order", () => {
    const pages = [7, 8, 999, 0, 3].map((page) => [page, filledPage(page)] as const);
    const unit = append(pages);
    assert.equal(unit, 1);
    assert.deepEqual([...read(unit)], pages);
    for (const [page] of pages) assert.equal(pageMap[page], unit);
    const second = append([[5, filledPage(5)]]);
    assert.ok(second * FRAME_UNIT_BYTES >= unit * FRAME_UNIT_BYTES + 1);
    assert.deepEqual([...read(second).keys()], [5]);
  });

  it("leave out pages of zeros, and are not there when nothing else is", () => {
    append([[1, filledPage(1)]]);
    const unit = append([
      [1, Buffer.alloc(PAGE)],
      [2, filledPage(2)],
    ]);
    assert.deepEqual([...read(unit).keys()], [2]);
    assert.equal(pageMap[1], 0, "the older bytes count no more");
    const end = frameLogEnd(log);
    append([[2, Buffer.alloc(PAGE)]]);
    assert.deepEqual([pageMap[2], frameLogEnd(log)], [0, end]);
  });

  it("bear a newer copy of a page behind the older one", () => {
    const older = append([[4, filledPage(4, 1)]]);
    const newer = append([[4, filledPage(4, 2)]]);
    assert.equal(pageMap[4], newer);
    assert.deepEqual(read(older).get(4), filledPage(4, 1));
    assert.deepEqual(read(newer).get(4), filledPage(4, 2));
  });

  it("hold one complete zstd frame, which any decoder reads", async () => {
    const pages = Array.from({ length: 128 }, (_, i) => [i, filledPage(i)] as const);
    const unit = append(pages);
    const bytes = readFileSync(path());
    const header = frameHeader.decode(bytes, unit * FRAME_UNIT_BYTES);
    const from = unit * FRAME_UNIT_BYTES + frameHeader.size + 4 * header.pages;
    const decoded = await decompress(bytes.subarray(from, from + header.payloadBytes));
    assert.deepEqual(decoded, Buffer.concat(pages.map(([, page]) => page)));
  });

  it("are refused for every byte that is not as it was written", () => {
    const unit = append([1, 2, 3].map((page) => [page, filledPage(page)] as const));
    const at = unit * FRAME_UNIT_BYTES;
    const { size } = fstatSync(file);
    for (let i = at; i < size; i += i < at + 48 ? 1 : 7) {
      spoil(i, (byte) => byte ^ 0x10);
      assert.throws(() => reader.read(due(unit)), { code: /^SNAPSHOT_(DAMAGED|CUT)$/, message: /frame at byte 4096/ });
      spoil(i, (byte) => byte ^ 0x10);
    }
    assert.equal(read(unit).size, 3);
  });

  it("are refused when the file ends inside them", () => {
    const unit = append([1, 2, 3].map((page) => [page, filledPage(page)] as const));
    const whole = readFileSync(path());
    for (let length = unit * FRAME_UNIT_BYTES; length < whole.length; length += 11) {
      writeFileSync(path(), whole.subarray(0, length));
      assert.throws(() => reader.read(due(unit)), { code: "SNAPSHOT_CUT" });
    }
  });

  it("are refused where they are another block's, another kind, or name pages twice or beyond the block", () => {
    const unit = append([1, 2].map((page) => [page, filledPage(page)] as const));
    const at = unit * FRAME_UNIT_BYTES;
    const damaged = { code: "SNAPSHOT_DAMAGED" };
    assert.throws(() => reader.read(due(unit, { block: 2 })), damaged);
    assert.throws(() => reader.read(due(unit, { kind: FRAME_KIND.pageMap })), damaged);
    assert.throws(() => reader.read(due(unit, { pageCount: 2 })), damaged);
    spoil(at + 32 + 7, () => 1);
    seal(at);
    assert.throws(() => reader.read(due(unit)), damaged);
  });

  it("are refused when hostile: counts that fit nothing, a payload that decodes to something else", () => {
    const unit = append([1, 2].map((page) => [page, filledPage(page)] as const));
    const at = unit * FRAME_UNIT_BYTES;
    const whole = readFileSync(path());
    const damaged = { code: "SNAPSHOT_DAMAGED", message: /frame at byte 4096/ };
    for (const [field, value] of [
      [12, 0],
      [12, 129],
      [12, 0xffff_ffff],
      [16, 0],
      [16, 0xffff_ffff],
    ] as const) {
      const bytes = Buffer.from(whole);
      bytes.writeUInt32BE(value, at + field);
      writeFileSync(path(), bytes);
      assert.throws(() => reader.read(due(unit)), damaged);
    }
    const bytes = Buffer.from(whole);
    bytes.writeUInt32BE(1, at + 12); // one page announced, two in the payload
    bytes.writeUInt32BE(fstatSync(file).size - at - 36, at + 16);
    writeFileSync(path(), bytes);
    seal(at);
    const frame = reader.read(due(unit));
    assert.throws(() => reader.decode(due(unit), frame), damaged);
    writeFileSync(path(), whole);
    assert.equal(read(unit).size, 2, "the reader goes on with the next frame");
  });

  it("go to places of their own when several threads append", () => {
    const another = new FrameWriter(log);
    try {
      const units = [append([[1, filledPage(1)]])];
      writeMemory(another.window.mapping, 0, filledPage(2));
      units.push(frameLogEnd(log));
      another.writePages(3, Uint32Array.of(2), 1, PAGE, pageMap);
      units.push(append([[3, filledPage(3)]]));
      assert.deepEqual(
        units.flatMap((unit) => [...read(unit).keys()]),
        [1, 2, 3],
      );
    } finally {
      another.free();
    }
  });

  it("say so when the disk is full", () => {
    const full = createFrameLog(openSync("/dev/full", "r+"), 1);
    const toFull = new FrameWriter(full);
    writeMemory(toFull.window.mapping, 0, filledPage(1));
    try {
      assert.throws(() => toFull.writePages(0, Uint32Array.of(1), 1, PAGE, pageMap), { code: "SYSTEM_ENOSPC" });
      assert.equal(pageMap[1], 0, "the map names nothing that is not there");
    } finally {
      toFull.free();
      closeSync(full.file);
    }
  });
});
