import assert from "node:assert/strict";
import fc from "fast-check";
import { MemoryRangeTable } from "./memory-range-table.js";
import { appendDirtyBitmap, partitionRanges } from "./range-rules.js";

type Pair = readonly [gpa: bigint, lengthBytes: bigint];

function pairs(table: MemoryRangeTable): Pair[] {
  return [...table].map(({ gpa, lengthBytes }) => [gpa, lengthBytes]);
}

function fromBitmap(words: readonly bigint[], gpa: bigint, pageBytes: number): Pair[] {
  const table = MemoryRangeTable.empty();
  appendDirtyBitmap(table, BigUint64Array.from(words), gpa, pageBytes);
  return pairs(table);
}

describe("ranges of a dirty bitmap", () => {
  it("are those of the golden vectors", () => {
    assert.deepEqual(fromBitmap([0b111111101110n, 0b10000n], 0x1000n, 0x1000), [
      [0x2000n, 0x3000n],
      [0x6000n, 0x7000n],
      [0x45000n, 0x1000n],
    ]);
    assert.deepEqual(fromBitmap([1n << 63n, 1n], 0n, 0x1000), [[0x3f000n, 0x2000n]]);
    const ones = 2n ** 64n - 1n;
    assert.deepEqual(fromBitmap([ones, ones], 2n ** 32n, 2 ** 21), [[0x1_0000_0000n, 0x1000_0000n]]);
  });

  it("run across words, are closed at the end, and reach past 2^53 exactly", () => {
    const ones = 2n ** 64n - 1n;
    assert.deepEqual(fromBitmap([1n, 0n, 1n << 63n, ones, 3n], 2n ** 63n + 1n, 4096), [
      [2n ** 63n + 1n, 4096n],
      [2n ** 63n + 1n + 191n * 4096n, 67n * 4096n],
    ]);
  });

  it("refuse to pass 2^64", () => assert.throws(() => fromBitmap([1n << 63n], 2n ** 64n - 4096n, 4096), RangeError));

  it("cover exactly the pages set, ascending and apart", () => {
    fc.assert(
      fc.property(fc.array(fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }), { maxLength: 5 }), (words) => {
        const covered = fromBitmap(words, 0n, 1).flatMap(([gpa, length]) =>
          Array.from({ length: Number(length) }, (_, page) => Number(gpa) + page),
        );
        const set = words.flatMap((word, index) =>
          Array.from({ length: 64 }, (_, bit) => index * 64 + bit).filter((page) => (word >> BigInt(page % 64)) & 1n),
        );
        assert.deepEqual(covered, set);
      }),
    );
  });
});

describe("partition of a range table", () => {
  const start = 0x1000n;
  const page = 4096n;
  function partition(word: bigint, chunkPages: number): (readonly [page: bigint, pages: bigint])[][] {
    const table = MemoryRangeTable.empty();
    appendDirtyBitmap(table, BigUint64Array.of(word), start, Number(page));
    return [...partitionRanges(table, chunkPages * Number(page))].map((chunk) =>
      pairs(chunk).map(([gpa, length]) => [(gpa - start) / page, length / page] as const),
    );
  }

  it("takes from the table's end and cuts the last range of a chunk from its end, as the golden vectors do", () => {
    assert.deepEqual(partition(0b11001100110011n, 5), [
      [
        [12n, 2n],
        [8n, 2n],
        [5n, 1n],
      ],
      [
        [4n, 1n],
        [0n, 2n],
      ],
    ]);
    assert.deepEqual(partition(0b111n, 2), [[[1n, 2n]], [[0n, 1n]]]);
  });

  it("gives every byte once, in chunks that are full but for the last", () => {
    const lengths = fc.array(fc.nat({ max: 50 }), { maxLength: 20 });
    fc.assert(
      fc.property(lengths, fc.integer({ min: 1, max: 40 }), (all, chunkBytes) => {
        const table = MemoryRangeTable.empty();
        for (const [index, length] of all.entries()) table.append(index * 100, length);
        const chunks = [...partitionRanges(table, chunkBytes)];
        const sizes = chunks.map((chunk) => Number(chunk.totalBytes()));
        assert.ok(sizes.slice(0, -1).every((size) => size === chunkBytes));
        const bytes = chunks.flatMap((chunk) =>
          pairs(chunk).flatMap(([gpa, length]) => Array.from({ length: Number(length) }, (_, at) => Number(gpa) + at)),
        );
        const due = all.flatMap((length, index) => Array.from({ length }, (_, at) => index * 100 + at));
        assert.deepEqual(
          bytes.toSorted((a, b) => a - b),
          due,
        );
      }),
    );
  });
});
