import assert from "node:assert/strict";
import { randomFillSync } from "node:crypto";
import { type Block, makeBlock, receiveInThread, type Through } from "./fixture.js";
import { RANGES_MAX, RangeBlock, type RangeBlockTarget } from "./range-block.js";
import { receiveBytes, sendBytes } from "./socket-streams.js";
import { closeDescriptor, shutdownSending, socketPair } from "./sockets.js";

const blockBytes = 1 << 20;
const defect = { name: "AssertionError" };

describe("range block", () => {
  const image = randomFillSync(new Uint8Array(blockBytes));
  let source: Block;
  let destination: Block;
  let ours: number;
  let theirs: number;
  beforeEach(() => {
    source = makeBlock(blockBytes, image);
    destination = makeBlock(blockBytes);
    [ours, theirs] = socketPair();
  });
  afterEach(() => {
    source.close();
    destination.close();
    closeDescriptor(ours);
    closeDescriptor(theirs);
  });

  function from(block: Block): RangeBlockTarget {
    return { lengthBytes: blockBytes, file: block.fd, fileOffsetBytes: 0, address: 0, fresh: -1 };
  }

  function into(block: Block, through: Through): RangeBlockTarget {
    if (through === "mapping") return { ...from(block), file: -1, address: block.mapping.address };
    if (through === "file") return from(block);
    return { ...from(block), address: block.fresh.mapping.address, fresh: block.fresh.descriptor };
  }

  /** Ranges that fit the socket's buffer, so that one thread can do both ends. */
  const ranges: readonly (readonly [offset: number, bytes: number])[] = [
    [0x8000, 0x3000],
    [0, 4096],
    [5, 0],
    [100_001, 77],
    [blockBytes - 1, 1],
    [0x20000, 0x14000],
    [blockBytes, 0],
  ];

  for (const through of ["mapping", "file", "fresh pages"] as const) {
    it(`puts ranges of any size back where they were, and nothing else (through the ${through})`, () => {
      const out = new RangeBlock(ours);
      const inward = new RangeBlock(theirs);
      const due = new Uint8Array(blockBytes);
      for (const [offset, bytes] of ranges) {
        out.add(from(source), offset, bytes);
        inward.add(into(destination, through), offset, bytes);
        due.set(image.subarray(offset, offset + bytes), offset);
      }
      assert.equal(inward.count, ranges.length);
      assert.equal(out.send(), inward.receive());
      assert.deepEqual(destination.content(), due);
    });
  }

  it("sends nothing between two ranges, and more than its stage holds", async () => {
    const out = new RangeBlock(ours);
    out.add(from(source), 4096, blockBytes - 4096);
    out.add({ ...from(source), fileOffsetBytes: 4096, lengthBytes: 8192 }, 1, 5);
    const { received } = await receiveInThread(theirs, blockBytes - 4096 + 5);
    assert.equal(out.send(), blockBytes - 4096 + 5);
    const due = new Uint8Array(blockBytes - 4096 + 5);
    due.set(image.subarray(4096));
    due.set(image.subarray(4097, 4102), blockBytes - 4096);
    assert.deepEqual(await received, due);
  });

  it("keeps the newest bytes where ranges repeat and overlap", () => {
    const inward = new RangeBlock(theirs);
    inward.add(into(destination, "fresh pages"), 0, 8192);
    inward.add(into(destination, "fresh pages"), 4096, 4096);
    sendBytes(ours, new Uint8Array(8192).fill(1));
    sendBytes(ours, new Uint8Array(4096).fill(2));
    inward.receive();
    const content = destination.content();
    assert.deepEqual([content[0], content[4095], content[4096], content[8191], content[8192]], [1, 1, 2, 2, 0]);
  });

  it("refuses a range that leaves its block, before a byte is read", () => {
    for (const [offset, bytes] of [
      [blockBytes, 1],
      [0, blockBytes + 1],
      [Number.MAX_SAFE_INTEGER, 1],
    ] as const) {
      const inward = new RangeBlock(theirs);
      inward.add(into(destination, "file"), 0, 1);
      inward.add(into(destination, "file"), offset, bytes);
      assert.throws(() => inward.receive(), defect);
      assert.throws(() => inward.send(), defect);
    }
    sendBytes(ours, Uint8Array.of(7));
    const rest = new Uint8Array(1);
    assert.equal(receiveBytes(theirs, rest), 1);
    assert.deepEqual(destination.content(), new Uint8Array(blockBytes));
  });

  it("refuses numbers that are no sizes, and a mapping to send from", () => {
    for (const bad of [-1, 0.5, Number.NaN, 2 ** 60]) {
      const inward = new RangeBlock(theirs);
      inward.add(into(destination, "file"), bad, 1);
      assert.throws(() => inward.receive(), defect);
    }
    const out = new RangeBlock(ours);
    out.add(into(source, "mapping"), 0, 1);
    assert.throws(() => out.send(), defect);
  });

  it("holds so many ranges and no more, and can be used again", () => {
    const out = new RangeBlock(ours);
    for (let index = 0; index < RANGES_MAX; index++) out.add(from(source), index, 0);
    assert.throws(() => out.add(from(source), 0, 0), RangeError);
    assert.equal(out.send(), 0);
    out.clear();
    assert.equal(out.count, 0);
  });

  it("tells a stream that is cut, a peer that is gone, and a file that ends too soon", () => {
    const inward = new RangeBlock(theirs);
    inward.add(into(destination, "file"), 0, 100);
    sendBytes(ours, new Uint8Array(99));
    shutdownSending(ours);
    assert.throws(() => inward.receive(), { code: "CHANNEL_CUT" });
    const out = new RangeBlock(theirs);
    out.add({ ...from(source), lengthBytes: 2 * blockBytes }, 0, blockBytes + 1);
    assert.throws(() => out.send(), { code: /SYSTEM_ENODATA|CHANNEL_BROKEN/ });
  });
});
