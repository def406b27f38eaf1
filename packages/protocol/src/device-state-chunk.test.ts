import assert from "node:assert/strict";
import { DEVICE_STATE_CHUNK_BYTES, decodeChunk, encodeChunkHead } from "./device-state-chunk.js";

const wire = (...words: readonly number[]) => {
  const bytes = Buffer.alloc(words.length * 4);
  for (const [at, value] of words.entries()) bytes.writeUInt32BE(value, at * 4);
  return bytes;
};

describe("device-state chunk", () => {
  it("lays its fields out where the specification says", () => {
    assert.deepEqual(Buffer.from(encodeChunkHead(0x01020304, true)), wire(0, 0x01020304, 1));
    assert.equal(DEVICE_STATE_CHUNK_BYTES, 12);
  });

  it("decodes what a VFIO device sends: buffers in their order, and its configuration last", () => {
    const data = Buffer.from("a part of a device");
    const buffer = decodeChunk(Buffer.concat([wire(0, 7, 0), data]));
    assert.deepEqual([buffer.index, buffer.isLast, Buffer.from(buffer.bytes)], [7, false, data]);
    assert.deepEqual(decodeChunk(wire(0, 8, 1)), { index: 8, isLast: true, bytes: Buffer.alloc(0) });
  });

  for (const [what, code, bytes] of [
    ["one that is shorter than its head", "WIRE_TRUNCATED", wire(0, 0)],
    ["another version", "DEVICE_STATE_VERSION", wire(1, 0, 0)],
    ["flags that nobody knows", "DEVICE_STATE_FLAGS", wire(0, 0, 3)],
  ] as const) {
    it(`rejects ${what}`, () => {
      assert.throws(() => decodeChunk(bytes), { code });
    });
  }
});
