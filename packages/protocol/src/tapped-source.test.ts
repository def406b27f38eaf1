/** A stream that is read and passed on at once: the same bytes, none of them early, none of them late. */
import assert from "node:assert/strict";
import fc from "fast-check";
import { ChunkSource } from "./byte-source.js";
import { TappedSource } from "./tapped-source.js";

async function* chunksOf(bytes: Uint8Array, lengths: readonly number[]) {
  let at = 0;
  for (const length of lengths) {
    yield bytes.slice(at, at + length);
    at += length;
  }
  yield bytes.slice(at);
}

function tapped(bytes: Uint8Array, lengths: readonly number[] = []) {
  const handed: Buffer[] = [];
  const source = new TappedSource(new ChunkSource(chunksOf(bytes, lengths)), async (piece) => {
    handed.push(Buffer.from(piece));
  });
  return { source, handed: () => Buffer.concat(handed) };
}

describe("tapped source", () => {
  it("reads what the source reads, and hands on the same bytes, however they arrive and are taken", async () => {
    const lengths = fc.array(fc.integer({ min: 1, max: 9 }), { maxLength: 40 });
    await fc.assert(
      fc.asyncProperty(
        fc.uint8Array({ minLength: 1, maxLength: 200 }),
        lengths,
        lengths,
        async (bytes, chunks, reads) => {
          const { source, handed } = tapped(bytes, chunks);
          const read: Buffer[] = [];
          for (const count of reads) {
            if (source.available < count && !(await source.fill(count))) break;
            read.push(Buffer.from(source.take(count)));
            assert.ok(handed().length <= source.position, "nothing is handed on before it is read");
          }
          await source.handOn(0);
          assert.deepEqual(handed(), Buffer.concat(read));
          assert.deepEqual(handed(), Buffer.from(bytes.subarray(0, source.position)));
        },
      ),
    );
  });

  it("reads numbers as they stand on the wire", async () => {
    const { source, handed } = tapped(Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 0, 0, 0, 0, 1, 0, 0, 2));
    await source.fill(15);
    assert.deepEqual([source.u8(), source.u16(), source.u32()], [1, 0x0203, 0x04050607]);
    assert.equal(source.u64(), 2 ** 24 + 2);
    await source.handOn(0);
    assert.equal(handed().length, 15);
  });

  it("hands on what has been read before it waits for more", async () => {
    const { source, handed } = tapped(Uint8Array.of(1, 2, 3, 4), [2]);
    await source.fill(2);
    source.take(2);
    assert.equal(handed().length, 0);
    await source.fill(1);
    assert.deepEqual([...handed()], [1, 2]);
  });

  it("keeps the last bytes back as long as its owner wants", async () => {
    const { source, handed } = tapped(Uint8Array.of(1, 2, 3, 4, 5));
    await source.fill(5);
    source.take(4);
    await source.handOn(2);
    assert.deepEqual([...handed()], [1, 2]);
    await source.handOn(2);
    assert.deepEqual([...handed()], [1, 2], "what is kept is kept once");
    source.take(1);
    await source.handOn(0);
    assert.deepEqual([...handed()], [1, 2, 3, 4, 5]);
  });

  it("does not read on while its taker is busy", async () => {
    let free = () => {};
    const source = new TappedSource(new ChunkSource(chunksOf(Uint8Array.of(1, 2), [1])), () => {
      return new Promise((resolve) => {
        free = resolve;
      });
    });
    await source.fill(1);
    source.take(1);
    const filled = source.fill(1);
    await new Promise(setImmediate);
    assert.equal(source.available, 0);
    free();
    assert.equal(await filled, true);
    assert.equal(source.available, 1);
  });
});
