import assert from "node:assert/strict";
import { type MemoryMapping, MemoryRangeTable } from "@multifd/protocol";
import fc from "fast-check";
import { MemoryMap } from "./memory-map.js";

function mapping(gpa: bigint, lengthBytes: bigint, zone = "mem0"): MemoryMapping {
  return { gpa, lengthBytes, zone, slot: 0, fileOffsetBytes: 0n };
}

const GIB = 2n ** 30n;

describe("memory map", () => {
  it("names a block by its zone, and by its address too where a zone lies in several runs", () => {
    const names = (...mappings: MemoryMapping[]) => new MemoryMap(mappings).blocks.map(({ block }) => block.name);
    assert.deepEqual(names(mapping(0n, GIB)), ["mem0"]);
    assert.deepEqual(names(mapping(0n, GIB), mapping(4n * GIB, GIB), mapping(8n * GIB, GIB, "far")), [
      "mem0@0x0",
      "mem0@0x100000000",
      "far",
    ]);
    assert.deepEqual(names(mapping(4096n, GIB, "")), ["ram@0x1000"]);
  });

  it("refuses RAM that cannot be held here", () => {
    for (const wrong of [mapping(0n, 4095n), mapping(0n, 2n ** 45n), mapping(2n ** 63n, GIB)]) {
      assert.throws(() => new MemoryMap([wrong]), { code: "MEMORY_MAP" });
    }
  });

  /** Seams at 8192 and 16384, a hole from 24576 to 32768; the blocks are not in the order of their addresses. */
  const map = new MemoryMap([
    mapping(32768n, 4096n, "d"),
    mapping(8192n, 8192n, "b"),
    mapping(0n, 8192n, "a"),
    mapping(16384n, 8192n, "c"),
  ]);
  const starts = [32768, 8192, 0, 16384];

  it("finds every byte of any table where it lies, in order, and refuses what leaves RAM", () => {
    const range = fc.tuple(fc.nat({ max: 38000 }), fc.nat({ max: 12000 }));
    fc.assert(
      fc.property(fc.array(range, { maxLength: 8 }), (ranges) => {
        const table = MemoryRangeTable.of(
          ranges.map(([gpa, bytes]) => ({ gpa: BigInt(gpa), lengthBytes: BigInt(bytes) })),
        );
        const isRam = (at: number) => (at >= 0 && at < 24576) || (at >= 32768 && at < 36864);
        const inside = ranges.every(([gpa, bytes]) => Array.from({ length: bytes }, (_, at) => gpa + at).every(isRam));
        if (!inside) {
          assert.throws(() => map.check(table), { code: "RANGE_OUTSIDE_RAM" });
          return;
        }
        const came: number[] = [];
        for (const pieces of map.pieces(table)) {
          for (let at = 0; at < pieces.length; at += 3) {
            for (let byte = 0; byte < pieces[at + 2]!; byte++) came.push(starts[pieces[at]!]! + pieces[at + 1]! + byte);
          }
        }
        assert.deepEqual(
          came,
          ranges.flatMap(([gpa, bytes]) => Array.from({ length: bytes }, (_, at) => gpa + at)),
        );
      }),
    );
  });

  it("cuts a long table into arrays without losing a piece", () => {
    const table = MemoryRangeTable.empty();
    for (let index = 0; index < 200_000; index++) table.append(index % 8192, 1);
    const sizes = [...map.pieces(table)].map((pieces) => pieces.length / 3);
    assert.ok(sizes.length > 1);
    assert.equal(
      sizes.reduce((sum, size) => sum + size, 0),
      200_000,
    );
  });
});
