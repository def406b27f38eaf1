import assert from "node:assert/strict";
import fc from "fast-check";
import { type MemoryRange, MemoryRangeTable } from "./memory-range-table.js";

describe("memory range table", () => {
  it("is the bytes of the golden vector", () => {
    const table = MemoryRangeTable.empty();
    table.append(0x2000, 0x3000);
    table.append(0x6000, 0x7000);
    assert.equal(
      Buffer.from(table.bytes).toString("hex"),
      "00200000000000000030000000000000" + "00600000000000000070000000000000",
    );
    assert.equal(table.totalBytes(), 0xa000n);
  });

  it("gives back any ranges, exact up to 2^64, however many", () => {
    const range = fc
      .tuple(fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }), fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }))
      .map(([gpa, any]): MemoryRange => ({ gpa, lengthBytes: any % (2n ** 64n - gpa) }));
    fc.assert(
      fc.property(fc.array(range, { maxLength: 300 }), (ranges) => {
        const table = MemoryRangeTable.fromWire(Uint8Array.from(MemoryRangeTable.of(ranges).bytes));
        assert.deepEqual([...table], ranges);
        const out = { gpa: 0, lengthBytes: 0 };
        for (const [index, { gpa, lengthBytes }] of ranges.entries()) {
          const exact = gpa + lengthBytes <= BigInt(Number.MAX_SAFE_INTEGER);
          assert.equal(table.readNumbers(index, out), exact);
          if (exact) assert.deepEqual(out, { gpa: Number(gpa), lengthBytes: Number(lengthBytes) });
        }
      }),
    );
  });

  it("takes numbers and bigints alike", () => {
    const table = MemoryRangeTable.empty();
    table.append(2 ** 40 + 4096, 2 ** 33);
    table.append(2n ** 40n + 4096n, 2n ** 33n);
    assert.deepEqual(table.at(0), table.at(1));
  });

  it("keeps the range that ends at 2^64 and refuses to make one that passes it", () => {
    const table = MemoryRangeTable.empty();
    table.append(2n ** 64n - 4096n, 4096n);
    assert.throws(() => table.append(2n ** 64n - 4096n, 4097n), RangeError);
    assert.equal(table.readNumbers(0, { gpa: 0, lengthBytes: 0 }), false);
  });

  it("may be empty, and is refused when it is no whole number of ranges", () => {
    assert.equal(MemoryRangeTable.fromWire(new Uint8Array(0)).count, 0);
    for (const bytes of [1, 15, 17]) {
      assert.throws(() => MemoryRangeTable.fromWire(new Uint8Array(bytes)), { code: "RANGE_TABLE_LENGTH" });
    }
  });
});
