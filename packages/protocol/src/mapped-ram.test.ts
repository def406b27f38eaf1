import assert from "node:assert/strict";
import { ChunkSource, type SeekableSource } from "./byte-source.js";
import type { MainEvent } from "./main-events.js";
import {
  emptyVmDescription,
  encodeConfiguration,
  encodeFileHeader,
  encodeRamComplete,
  encodeRamSectionEnd,
  encodeStreamEnd,
} from "./main-stream.js";
import { decodeMainStream, decodeMappedRamStream } from "./main-stream-decoder.js";
import {
  encodeMappedRamStart,
  MAPPED_RAM_ALIGNMENT,
  MAPPED_RAM_HEAD_BYTES,
  type MappedRamPlace,
  mappedBitmapBytes,
  mappedRamHeader,
  placeMappedRam,
} from "./mapped-ram.js";

const PAGE = 4096;
const ID = 2;
const blocks = [
  { name: "pc.ram", lengthBytes: 3 * 2 ** 20 },
  { name: "pc.bios", lengthBytes: 100 * PAGE },
  { name: "/rom@etc/acpi/rsdp", lengthBytes: PAGE },
];

/** A file in memory, stepped over as one on disk is. */
class MemorySource implements SeekableSource {
  #base = 0;
  #chunks: ChunkSource;
  readonly #bytes: Uint8Array;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
    this.#chunks = new ChunkSource(once(bytes));
  }
  get available() {
    return this.#chunks.available;
  }
  get position() {
    return this.#base + this.#chunks.position;
  }
  fill(bytes: number) {
    return this.#chunks.fill(bytes);
  }
  take(bytes: number) {
    return this.#chunks.take(bytes);
  }
  u8() {
    return this.#chunks.u8();
  }
  u16() {
    return this.#chunks.u16();
  }
  u32() {
    return this.#chunks.u32();
  }
  u64() {
    return this.#chunks.u64();
  }
  seek(position: number) {
    this.#base = position;
    this.#chunks = new ChunkSource(once(this.#bytes.subarray(position)));
  }
}

async function* once(bytes: Uint8Array) {
  yield bytes;
}

/** A whole file around `places`; a header may be patched before it is read. */
function file(places: readonly MappedRamPlace[], end: number, capabilities: readonly string[] = ["mapped-ram"]) {
  const head = Buffer.concat([encodeFileHeader(), encodeConfiguration({ machineType: "pc", capabilities })]);
  const tail = Buffer.concat([
    encodeRamSectionEnd(ID),
    encodeRamComplete(ID),
    encodeRamSectionEnd(ID),
    encodeStreamEnd(emptyVmDescription(PAGE)),
  ]);
  const bytes = Buffer.alloc(end + tail.length);
  const pieces = [
    { at: 0, bytes: head },
    ...encodeMappedRamStart(head.length, ID, blocks, places, PAGE),
    { at: end, bytes: tail },
  ];
  for (const piece of pieces) bytes.set(piece.bytes, piece.at);
  return { bytes, pieces };
}

async function decode(bytes: Uint8Array): Promise<MainEvent[]> {
  const events: MainEvent[] = [];
  for await (const event of decodeMappedRamStream(new MemorySource(bytes))) events.push(event);
  return events;
}

describe("mapped-ram file", () => {
  const { places, end } = placeMappedRam(blocks, PAGE);

  it("places every block behind its bitmap, on a whole MiB, and nothing over anything else", () => {
    assert.equal(places[0]!.bitmapOffset, MAPPED_RAM_HEAD_BYTES);
    let free = 0;
    for (const [index, { bitmapOffset, pagesOffset }] of places.entries()) {
      const { lengthBytes } = blocks[index]!;
      assert.ok(bitmapOffset > free);
      assert.ok(pagesOffset >= bitmapOffset + mappedBitmapBytes(lengthBytes / PAGE));
      assert.equal(pagesOffset % MAPPED_RAM_ALIGNMENT, 0);
      free = pagesOffset + lengthBytes;
    }
    assert.equal(end, free);
  });

  it("has bitmaps in whole 64-bit words", () => {
    assert.deepEqual(
      [1, 64, 65, 786_432].map((pages) => mappedBitmapBytes(pages)),
      [8, 8, 16, 98_304],
    );
  });

  it("is read back with its blocks' places, the pages stepped over", async () => {
    const events = await decode(file(places, end).bytes);
    assert.deepEqual(
      events.map(({ kind }) => kind),
      ["configuration", "ram-blocks", "section-end", "section-end", "devices"],
    );
    const list = events.find((event) => event.kind === "ram-blocks")!;
    assert.deepEqual(
      list.blocks,
      blocks.map((block, index) => ({ ...block, mapped: places[index]! })),
    );
  });

  it("is refused as a stream, and a stream as a file", async () => {
    const asStream = async (bytes: Uint8Array) => {
      for await (const _ of decodeMainStream(new ChunkSource(once(bytes))));
    };
    await assert.rejects(asStream(file(places, end).bytes), { code: "STREAM_MAPPED_RAM" });
    await assert.rejects(decode(file(places, end, []).bytes), { code: "SNAPSHOT_NOT_MAPPED" });
  });

  it("is refused where a block is said to lie elsewhere than behind its entry", async () => {
    const { bytes, pieces } = file(places, end);
    const [, , first, second] = pieces;
    const headerAt = (piece: typeof first) => piece!.at + piece!.bytes.length - mappedRamHeader.size;
    const { bitmapOffset, pagesOffset } = places[1]!;
    const wrong: [values: Parameters<typeof mappedRamHeader.encode>[0], says: RegExp][] = [
      [{ pageBytes: 8192, bitmapOffset, pagesOffset }, /pages of 8192 bytes came, the configuration says 4096/],
      [{ pageBytes: PAGE, bitmapOffset: 0, pagesOffset }, /"pc.bios".*bitmap is said to be at 0x0/],
      [{ pageBytes: PAGE, bitmapOffset, pagesOffset: bitmapOffset }, /pages at/],
      [{ pageBytes: PAGE, bitmapOffset, pagesOffset: pagesOffset + 1 }, /pages at/],
      [{ pageBytes: PAGE, bitmapOffset, pagesOffset: 2 ** 53 - PAGE }, /pages at/],
    ];
    for (const [values, says] of wrong) {
      const patched = Buffer.from(bytes);
      patched.set(mappedRamHeader.encode(values), headerAt(second));
      await assert.rejects(decode(patched), { code: "MAPPED_RAM_PLACE", message: says });
    }
    const newer = Buffer.from(bytes);
    newer.writeUInt32BE(2, headerAt(first));
    await assert.rejects(decode(newer), { code: "MAPPED_RAM_VERSION" });
  });

  it("is refused wherever it is cut", async () => {
    const { bytes } = file(places, end);
    for (const length of [0, 6, 20, 60, 100, places[0]!.pagesOffset, end - 1, end, end + 20, bytes.length - 1])
      await assert.rejects(decode(bytes.subarray(0, length)), { code: "STREAM_CUT" }, `cut at ${length}`);
  });

  it("has no room for a head that reaches into the first bitmap", () => {
    assert.throws(() => encodeMappedRamStart(MAPPED_RAM_HEAD_BYTES - 20, ID, blocks, places, PAGE), RangeError);
  });
});
