import assert from "node:assert/strict";
import fc from "fast-check";
import { ChunkSource, need } from "./byte-source.js";

async function* chunks(...list: readonly (readonly number[])[]): AsyncGenerator<Uint8Array> {
  for (const chunk of list) yield Uint8Array.from(chunk);
}

describe("chunk source", () => {
  it("gives the same bytes however they were cut, and however they are taken", async () => {
    const any = fc.tuple(
      fc.array(fc.array(fc.nat({ max: 255 }), { maxLength: 20 }), { maxLength: 20 }),
      fc.array(fc.integer({ min: 1, max: 50 }), { maxLength: 50 }),
    );
    await fc.assert(
      fc.asyncProperty(any, async ([list, reads]) => {
        const all = list.flat();
        const source = new ChunkSource(chunks(...list));
        const taken: number[] = [];
        for (const read of reads) {
          const there = await source.fill(read);
          assert.equal(there, taken.length + read <= all.length);
          if (!there) break;
          taken.push(...source.take(read));
          assert.equal(source.position, taken.length);
        }
        assert.deepEqual(taken, all.slice(0, taken.length));
      }),
    );
  });

  it("never writes into the chunks that it was given", async () => {
    const first = Uint8Array.of(1, 2, 3, 4).subarray(0, 3);
    async function* both() {
      yield first;
      yield Uint8Array.of(9);
    }
    const source = new ChunkSource(both());
    await source.fill(4);
    assert.deepEqual([source.u32(), first.buffer.byteLength, new Uint8Array(first.buffer)[3]], [0x01020309, 4, 4]);
  });

  it("reads big-endian numbers across chunks", async () => {
    const source = new ChunkSource(chunks([1, 2], [3, 0, 0, 0], [4, 0, 0, 0, 1, 0, 0, 0], [5]));
    assert.ok(await source.fill(15));
    assert.deepEqual([source.u8(), source.u16(), source.u32(), source.u64()], [1, 0x203, 4, 2 ** 32 + 5]);
  });

  it("refuses a 64-bit number that a number cannot hold", async () => {
    const source = new ChunkSource(chunks([0, 0x20, 0, 0, 0, 0, 0, 0]));
    await source.fill(8);
    assert.throws(() => source.u64(), { name: "ProtocolError", code: "WIRE_NUMBER_TOO_LARGE", message: /^byte 0: / });
  });

  it("does not await what is there already", async () => {
    const source = new ChunkSource(chunks([1, 2, 3]));
    await source.fill(1);
    assert.equal(source.available, 3);
  });

  it("treats taking more than is there as a defect of our own", () => {
    assert.throws(() => new ChunkSource(chunks()).u8(), RangeError);
  });
});

describe("a need for bytes", () => {
  it("is a broken link when the stream ends before, named with place and purpose", async () => {
    const source = new ChunkSource(chunks([1, 2, 3]));
    await source.fill(2);
    source.u8();
    await assert.rejects(need(source, 5, "main channel", "the RAM block list"), {
      name: "ChannelError",
      code: "STREAM_CUT",
      message: /^main channel, byte 3: the stream ended inside the RAM block list; /,
    });
  });
});
