import assert from "node:assert/strict";
import { createCipheriv, randomFillSync } from "node:crypto";
import { constants, createInflateRaw, deflateRawSync, deflateSync, inflateSync } from "node:zlib";
import zstd from "@mongodb-js/zstd";
import { compressSync, uncompressSync } from "lz4-napi";
import { createCompressor, createDecompressor, freeCodec, ZSTD_STORE_LEVEL } from "./codecs.js";
import { nativeFeatures } from "./features.js";
import { type Block, listPages, makeBlock, packetFrom, packetInto } from "./fixture.js";
import { preparePacket, receivePages } from "./packet-calls.js";
import { sendBytes } from "./socket-streams.js";
import { closeDescriptor, socketPair } from "./sockets.js";

const pageBytes = 4096;
const pagesInBlock = 24;

/** Pages of text, of noise and of both, none all zero. */
function guestPages(): Uint8Array {
  const image = new Uint8Array(pagesInBlock * pageBytes);
  for (let page = 0; page < pagesInBlock; page++) {
    const bytes = image.subarray(page * pageBytes, (page + 1) * pageBytes);
    if (page % 3 === 0) randomFillSync(bytes);
    else for (let i = 0; i < pageBytes; i++) bytes[i] = page % 3 === 1 ? (i >> 3) + page : (i * i) >> 7;
  }
  return image;
}

const image = guestPages();
const pagesOf = (first: number, count: number) => image.subarray(first * pageBytes, (first + count) * pageBytes);

/** Compresses pages [first, first + count) as one packet. */
function compress(block: Block, codec: number, first: number, count: number): Uint8Array {
  const packet = packetFrom(block, pageBytes);
  packet.codec = codec;
  listPages(
    packet,
    Array.from({ length: count }, (_, i) => first + i),
  );
  return packet.payload.slice(0, preparePacket(packet, false));
}

/** Decodes one payload into pages [first, first + count) of the block, over a socket. */
function decode(block: Block, codec: number, payload: Uint8Array, first: number, count: number): void {
  const [ours, theirs] = socketPair();
  try {
    const packet = packetInto(block, pageBytes, "file");
    packet.codec = codec;
    packet.socket = theirs;
    packet.payloadBytes = payload.byteLength;
    listPages(
      packet,
      Array.from({ length: count }, (_, i) => first + i),
    );
    sendBytes(ours, payload);
    assert.equal(receivePages(packet), payload.byteLength);
  } finally {
    closeDescriptor(ours);
    closeDescriptor(theirs);
  }
}

/** node:zlib's raw DEFLATE of each part, sync-flushed, without history from the part before. */
const flushed = (bytes: Uint8Array) => deflateRawSync(bytes, { finishFlush: constants.Z_SYNC_FLUSH });

/**
 * One zlib stream over all parts, each ended by a sync flush, history kept: what QEMU sends. A part compressed with
 * everything before it as its dictionary is what a stream's next part would be.
 */
function zlibStream(parts: readonly Uint8Array[]): Uint8Array[] {
  return parts.map((part, i) => {
    if (i === 0) return Buffer.concat([Uint8Array.of(0x78, 0x9c), flushed(part)]);
    const dictionary = Buffer.concat(parts.slice(0, i)).subarray(-32768);
    return deflateRawSync(part, { finishFlush: constants.Z_SYNC_FLUSH, dictionary });
  });
}

describe("zlib compressor", () => {
  for (const level of [0, 1, 2, 3, 4, 6, 9]) {
    it(`writes one endless stream that node:zlib decodes, each packet byte-aligned and alone (level ${level})`, () => {
      const block = makeBlock(image.byteLength, image);
      const codec = createCompressor("zlib", level);
      const payloads = [compress(block, codec, 0, 8), compress(block, codec, 8, 1), compress(block, codec, 9, 15)];
      for (const payload of payloads) assert.deepEqual([...payload.subarray(-4)], [0, 0, 0xff, 0xff]);
      assert.deepEqual([...payloads[0]!.subarray(0, 2)], [0x78, 0x01]);
      const whole = inflateSync(Buffer.concat(payloads), { finishFlush: constants.Z_SYNC_FLUSH });
      assert.deepEqual(whole, Buffer.from(image));
      // Alone: the last packet decodes without those before it.
      const alone = inflateSync(Buffer.concat([Uint8Array.of(0x78, 0x01), payloads[2]!]), {
        finishFlush: constants.Z_SYNC_FLUSH,
      });
      assert.deepEqual(alone, Buffer.from(pagesOf(9, 15)));
      freeCodec(codec);
      block.close();
    });
  }

  it("never sets the final bit, so that a decoder still waits for more", async () => {
    const block = makeBlock(image.byteLength, image);
    const codec = createCompressor("zlib", 1);
    const inflate = createInflateRaw();
    inflate.write(compress(block, codec, 0, 8).subarray(2));
    await assert.rejects(
      new Promise((resolve, reject) => {
        inflate.on("end", resolve).on("error", reject).resume().end();
      }),
      { code: "Z_BUF_ERROR" },
    );
    freeCodec(codec);
    block.close();
  });
});

describe("noise in a zlib packet", () => {
  /** The same for the same number of bytes. */
  const noise = (bytes: number) =>
    createCipheriv("aes-128-ctr", Buffer.alloc(16), Buffer.alloc(16, 1)).update(Buffer.alloc(bytes));
  const text = (bytes: number) => Buffer.from("a guest's page ".repeat(bytes)).subarray(0, bytes);

  /** Prepares all pages of `contents`. */
  function prepare(contents: Uint8Array, bytesOfPage: number, level: number, detectZero: boolean) {
    const block = makeBlock(contents.byteLength, contents);
    const packet = packetFrom(block, bytesOfPage);
    packet.codec = createCompressor("zlib", level);
    const count = contents.byteLength / bytesOfPage;
    listPages(
      packet,
      Array.from({ length: count }, (_, i) => i),
    );
    const payload = packet.payload.slice(0, preparePacket(packet, detectZero));
    const { normalPages } = packet;
    freeCodec(packet.codec);
    block.close();
    return { payload, normalPages, pages: [...packet.pages.subarray(0, count)] };
  }
  const inflated = (payload: Uint8Array) => inflateSync(payload, { finishFlush: constants.Z_SYNC_FLUSH });

  for (const bytes of [512, 4096, 65536]) {
    const contents = Buffer.concat([noise(bytes), text(bytes), Buffer.alloc(bytes), noise(2 * bytes), text(3 * bytes)]);
    const inOrder = (order: readonly number[]) =>
      Buffer.concat(order.map((page) => contents.subarray(page * bytes, (page + 1) * bytes)));

    for (const level of [1, 2, 3]) {
      it(`comes last and as it is: pages of ${bytes} bytes, level ${level}`, () => {
        const { payload, normalPages, pages } = prepare(contents, bytes, level, true);
        assert.deepEqual([normalPages, pages], [7, [1, 5, 6, 7, 0, 3, 4, 2]]);
        assert.deepEqual(inflated(payload), inOrder([1, 5, 6, 7, 0, 3, 4]));
        assert.ok(Buffer.from(payload).includes(contents.subarray(0, 512)));
      });
    }
    it(`keeps its place where a level is worth its time, or pages are to stay in order: pages of ${bytes} bytes`, () => {
      const slow = prepare(contents, bytes, 6, true);
      assert.deepEqual(
        [slow.pages, inflated(slow.payload)],
        [[0, 1, 3, 4, 5, 6, 7, 2], inOrder([0, 1, 3, 4, 5, 6, 7])],
      );
      const listed = prepare(contents, bytes, 1, false);
      assert.deepEqual([listed.pages, inflated(listed.payload)], [[0, 1, 2, 3, 4, 5, 6, 7], contents]);
    });
  }

  it("is alone in a packet, also in a stream's first", () => {
    const contents = noise(32 * pageBytes);
    const { payload } = prepare(contents, pageBytes, 1, true);
    assert.deepEqual(inflated(payload), contents);
    assert.ok(payload.byteLength < contents.byteLength + 100);
  });
  it("is not what has few values, what repeats itself, or numbers whose low bytes are noise", () => {
    const numbers = noise(pageBytes);
    for (let at = 0; at < pageBytes; at += 8) numbers.fill(0, at + 4, at + 8);
    const digits = noise(pageBytes).map((byte) => byte & 0x7f);
    const repeated = Buffer.concat([noise(1024), noise(1024), noise(1024), noise(1024)]);
    const contents = Buffer.concat([noise(pageBytes), numbers, digits, repeated]);
    assert.deepEqual(prepare(contents, pageBytes, 1, true).pages, [1, 2, 3, 0]);
  });
});

describe("zlib decompressor", () => {
  let block: Block;
  let codec: number;
  beforeEach(() => {
    block = makeBlock(image.byteLength);
    codec = createDecompressor("zlib");
  });
  afterEach(() => {
    freeCodec(codec);
    block.close();
  });

  it("decodes one stream over several packets, whose matches reach back across them", () => {
    // The same pages three times: all but the first packet is mostly matches into the one before.
    const part = pagesOf(0, 6);
    const payloads = zlibStream([part, part, part]);
    assert.ok(payloads[1]!.byteLength < payloads[0]!.byteLength / 2);
    payloads.forEach((payload, i) => {
      decode(block, codec, payload, i * 6, 6);
    });
    assert.deepEqual(Buffer.from(block.content().subarray(0, 18 * pageBytes)), Buffer.concat([part, part, part]));
  });

  it("decodes packets larger than the 32 KiB of history", () => {
    for (const payload of zlibStream([image, image, image])) decode(block, codec, payload, 0, pagesInBlock);
    assert.deepEqual(block.content(), image);
  });

  it("refuses a payload that is no zlib stream", () => {
    assert.throws(() => decode(block, codec, Uint8Array.of(1, 2, 3, 4, 5), 0, 1), { code: "PAYLOAD_CORRUPT" });
  });
  it("refuses a preset dictionary and a window above 32 KiB", () => {
    for (const head of [
      [0x78, 0x20],
      [0x88, 0x1c],
    ]) {
      assert.throws(() => decode(block, codec, Uint8Array.from([...head, 0, 0, 0]), 0, 1), { code: "PAYLOAD_CORRUPT" });
    }
  });
  it("refuses a payload that decodes to more than its pages, by as little as a byte", () => {
    const tooLong = Buffer.concat([Uint8Array.of(0x78, 0x01), flushed(new Uint8Array(pageBytes + 1).fill(7))]);
    assert.throws(() => decode(block, codec, tooLong, 0, 1), { code: "PAYLOAD_TOO_LONG" });
  });
  it("refuses a bomb without filling more than one packet's memory", () => {
    const bomb = Buffer.concat([Uint8Array.of(0x78, 0x01), flushed(new Uint8Array(64 << 20))]);
    assert.throws(() => decode(block, codec, bomb, 0, 4), { code: "PAYLOAD_TOO_LONG" });
  });
  it("refuses a payload that decodes to less than its pages", () => {
    const tooShort = Buffer.concat([Uint8Array.of(0x78, 0x01), flushed(new Uint8Array(pageBytes - 1).fill(7))]);
    assert.throws(() => decode(block, codec, tooShort, 0, 1), { code: "PAYLOAD_TOO_SHORT" });
  });
  it("refuses a stream that ends, and everything after it", () => {
    assert.throws(() => decode(block, codec, deflateSync(pagesOf(0, 1)), 0, 1), { code: "PAYLOAD_STREAM_ENDED" });
    assert.throws(() => decode(block, codec, flushed(pagesOf(1, 1)), 0, 1), { code: "PAYLOAD_STREAM_ENDED" });
  });
  it("places nothing of a payload that it refuses", () => {
    const bytes = Buffer.concat([Uint8Array.of(0x78, 0x01), flushed(pagesOf(0, 2))]);
    assert.throws(() => decode(block, codec, bytes.subarray(0, 4000), 0, 2), { code: "PAYLOAD_TOO_SHORT" });
    assert.ok(block.content().every((byte) => byte === 0));
  });
});

describe("zstd", () => {
  before(() => {
    assert.ok(nativeFeatures().zstd, "the C library was built without libzstd");
  });

  for (const level of [0, 1, 3, 9, 20, -5, ZSTD_STORE_LEVEL]) {
    it(`writes one complete frame per packet, which another zstd decodes alone (level ${level})`, async () => {
      const block = makeBlock(image.byteLength, image);
      const codec = createCompressor("zstd", level);
      for (const [first, count] of [
        [0, 8],
        [8, 1],
        [9, 15],
      ] as const) {
        const payload = compress(block, codec, first, count);
        assert.deepEqual(await zstd.decompress(Buffer.from(payload)), Buffer.from(pagesOf(first, count)));
      }
      freeCodec(codec);
      block.close();
    });
  }

  describe("decompressor", () => {
    let block: Block;
    let codec: number;
    beforeEach(() => {
      block = makeBlock(image.byteLength);
      codec = createDecompressor("zstd");
    });
    afterEach(() => {
      freeCodec(codec);
      block.close();
    });

    it("decodes a frame per packet", async () => {
      for (let first = 0; first < pagesInBlock; first += 8) {
        decode(block, codec, await zstd.compress(Buffer.from(pagesOf(first, 8)), 3), first, 8);
      }
      assert.deepEqual(block.content(), image);
    });
    it("decodes a frame per page, with skippable frames behind the data", async () => {
      const skippable = Uint8Array.of(0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3);
      const frames = [];
      for (let page = 0; page < 4; page++)
        frames.push(await zstd.compress(Buffer.from(pagesOf(page, 1)), 1), skippable);
      decode(block, codec, Buffer.concat(frames), 0, 4);
      assert.deepEqual(block.content().subarray(0, 4 * pageBytes), pagesOf(0, 4));
    });
    it("decodes one frame whose blocks are spread over packets", () => {
      // Raw blocks of a page each, the frame opened once and never ended: what QEMU's flush leaves on the wire.
      const header = Uint8Array.of(0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x48);
      const rawBlock = (page: number) => Buffer.concat([Uint8Array.of(0x00, 0x80, 0x00), pagesOf(page, 1)]);
      decode(block, codec, Buffer.concat([header, rawBlock(0), rawBlock(1)]), 0, 2);
      decode(block, codec, rawBlock(2), 2, 1);
      assert.deepEqual(block.content().subarray(0, 3 * pageBytes), pagesOf(0, 3));
    });
    it("refuses bytes that are no frame", () => {
      assert.throws(() => decode(block, codec, new Uint8Array(40).fill(9), 0, 1), { code: "PAYLOAD_CORRUPT" });
    });
    it("refuses more and less than the announced pages", async () => {
      const more = await zstd.compress(Buffer.alloc(pageBytes + 1, 7), 1);
      assert.throws(() => decode(block, codec, more, 0, 1), { code: "PAYLOAD_TOO_LONG" });
      const other = createDecompressor("zstd");
      const less = await zstd.compress(Buffer.alloc(pageBytes - 1, 7), 1);
      assert.throws(() => decode(block, other, less, 0, 1), { code: "PAYLOAD_TOO_SHORT" });
      freeCodec(other);
    });
    it("refuses a bomb", async () => {
      const bomb = await zstd.compress(Buffer.alloc(64 << 20), 1);
      assert.throws(() => decode(block, codec, bomb, 0, 1), { code: "PAYLOAD_TOO_LONG" });
    });
    it("refuses a window above 128 MiB", () => {
      const header = Uint8Array.of(0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x90, 0x00, 0x80, 0x00);
      assert.throws(() => decode(block, codec, Buffer.concat([header, pagesOf(0, 1)]), 0, 1), {
        code: "PAYLOAD_CORRUPT",
      });
    });
  });
});

describe("lz4", () => {
  /** lz4-napi's own form: the decoded size, then the block. */
  const sized = (block: Uint8Array, bytes: number) => {
    const size = Buffer.alloc(4);
    size.writeUInt32LE(bytes);
    return Buffer.concat([size, block]);
  };
  const blockOf = (bytes: Uint8Array) => compressSync(Buffer.from(bytes)).subarray(4);
  let block: Block;
  let codec: number;
  before(() => {
    assert.ok(nativeFeatures().lz4, "the C library was built without liblz4");
  });
  beforeEach(() => {
    block = makeBlock(image.byteLength);
    codec = createDecompressor("lz4");
  });
  afterEach(() => {
    freeCodec(codec);
    block.close();
  });

  it("writes one block per packet, which another lz4 decodes alone", () => {
    const source = makeBlock(image.byteLength, image);
    const compressor = createCompressor("lz4", 1);
    for (const [first, count] of [
      [0, 8],
      [8, 1],
      [9, 15],
    ] as const) {
      const payload = compress(source, compressor, first, count);
      assert.deepEqual(uncompressSync(sized(payload, count * pageBytes)), Buffer.from(pagesOf(first, count)));
    }
    freeCodec(compressor);
    source.close();
  });
  it("decodes what another lz4 wrote", () => {
    for (let first = 0; first < pagesInBlock; first += 8) decode(block, codec, blockOf(pagesOf(first, 8)), first, 8);
    assert.deepEqual(block.content(), image);
  });
  it("refuses a block that is cut anywhere, places nothing of it, and goes on with the next packet", () => {
    const payload = blockOf(pagesOf(0, 4));
    for (let cut = 1; cut < payload.length; cut += 97) {
      const code = /^PAYLOAD_(CORRUPT|TOO_SHORT)$/;
      assert.throws(
        () => decode(block, codec, payload.subarray(0, cut), 0, 4),
        (error: { code: string }) => code.test(error.code),
      );
    }
    assert.ok(block.content().every((byte) => byte === 0));
    decode(block, codec, payload, 0, 4);
    assert.deepEqual(block.content().subarray(0, 4 * pageBytes), pagesOf(0, 4));
  });
  it("refuses more and less than the announced pages, by as little as a byte", () => {
    const more = blockOf(Buffer.alloc(pageBytes + 1, 7));
    assert.throws(() => decode(block, codec, more, 0, 1), { code: "PAYLOAD_TOO_LONG" });
    const less = blockOf(Buffer.alloc(pageBytes - 1, 7));
    assert.throws(() => decode(block, codec, less, 0, 1), { code: "PAYLOAD_TOO_SHORT" });
  });
  it("refuses a bomb", () => {
    assert.throws(() => decode(block, codec, blockOf(Buffer.alloc(8 << 20)).subarray(0, 1 << 20), 0, 1), {
      code: "PAYLOAD_CORRUPT",
    });
  });
  it("refuses a match that reaches before the block, and bytes that are no block", () => {
    assert.throws(() => decode(block, codec, Uint8Array.of(0x1f, 65, 0xff, 0xff, 0x00, 0x00), 0, 1), {
      code: "PAYLOAD_CORRUPT",
    });
    assert.throws(() => decode(block, codec, new Uint8Array(40).fill(0xff), 0, 1), { code: "PAYLOAD_CORRUPT" });
  });
});

describe("codec handles", () => {
  it("refuse levels out of range and handles that are not open", () => {
    for (const level of [-1, 10]) assert.throws(() => createCompressor("zlib", level), { name: "AssertionError" });
    for (const level of [-101, 21]) assert.throws(() => createCompressor("zstd", level), { name: "AssertionError" });
    for (const level of [0, 2]) assert.throws(() => createCompressor("lz4", level), { name: "AssertionError" });
    const handle = createDecompressor("zlib");
    freeCodec(handle);
    assert.throws(() => freeCodec(handle), { name: "AssertionError" });
    assert.throws(() => freeCodec(0), { name: "AssertionError" });
  });
});
