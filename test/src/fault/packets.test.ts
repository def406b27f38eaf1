/** Packets that break their form or their limits: each is refused with channel, packet and what was due. */
import assert from "node:assert/strict";
import { constants, deflateSync } from "node:zlib";
import { compress } from "@mongodb-js/zstd";
import type { QemuCompression } from "@multifd/protocol";
import type { Recording } from "../recorder.js";
import type { Patch } from "../replayer.js";
import { FIELD, findPacket, HEADER_BYTES, patchPayload, patchWords, type RecordedPacket } from "./packet-walk.js";
import { RAM_BYTES, RAM_PAGES, recordQemu } from "./recordings.js";
import { assertRefused, type DueRefusal } from "./refusal.js";

const PAGE_BYTES = 4096;
const methods: readonly QemuCompression[] = ["none", "zlib", "zstd"];
const PLACE = "channel [01], packet \\d+: ";

const isData = (packet: RecordedPacket) => packet.normalPages > 1 && packet.ramBlock === "pc.ram";
const isSync = (packet: RecordedPacket) => (packet.flags & 1) !== 0;
const placed = (says: string) => new RegExp(`${PLACE}.*${says}`, "s");

describe("a receiver refuses in a packet", function () {
  this.timeout(20_000);
  const recordings = new Map<QemuCompression, Recording>();
  before(async () => {
    for (const method of methods) recordings.set(method, await recordQemu("11.1", method));
  });

  const spoil = (method: QemuCompression, patch: (recording: Recording) => readonly Patch[], due: DueRefusal) => {
    const recording = recordings.get(method)!;
    return assertRefused({ recording, faults: { patch: patch(recording) }, receiver: { compression: method } }, due);
  };
  /** Words in place of a field of the first data packet. */
  const spoilField = (field: number, words: (packet: RecordedPacket) => readonly number[], due: DueRefusal) =>
    spoil(
      "none",
      (recording) => {
        const packet = findPacket(recording, isData);
        return [patchWords(packet, field, ...words(packet))];
      },
      due,
    );

  it("a wrong magic", () =>
    spoilField(FIELD.magic, () => [0x11223345], {
      code: "MULTIFD_MAGIC",
      says: placed("multifd packet, magic: 0x11223345 came, 0x11223344 was due"),
    }));

  it("a wrong version", () =>
    spoilField(FIELD.version, () => [2], {
      code: "MULTIFD_VERSION",
      says: placed("multifd packet, version: 0x2 came"),
    }));

  it("flags that nobody knows", () =>
    spoilField(FIELD.flags, () => [0x80], { code: "MULTIFD_FLAGS", says: placed("the packet's flags are 0x80") }));

  it("more page slots than a packet has", () =>
    spoilField(FIELD.pagesMax, () => [129], {
      code: "MULTIFD_TOO_MANY_PAGES",
      says: placed("the packet claims 129 page slots, 128 is the most"),
    }));

  it("more page slots in a SYNC packet, while the main channel waits for that SYNC", () =>
    spoil("none", (recording) => [patchWords(findPacket(recording, isSync), FIELD.pagesMax, 129)], {
      code: "MULTIFD_TOO_MANY_PAGES",
      says: placed("the packet claims 129 page slots"),
    }));

  it("more normal pages than the packet holds", () =>
    spoilField(FIELD.normalPages, () => [129], {
      code: "MULTIFD_TOO_MANY_PAGES",
      says: placed("the packet announces 129 normal and \\d+ zero pages in 128 page slots"),
    }));

  it("more zero pages than the packet holds beside its normal ones", () =>
    spoilField(FIELD.zeroPages, ({ normalPages }) => [129 - normalPages], {
      code: "MULTIFD_TOO_MANY_PAGES",
      says: placed("in 128 page slots"),
    }));

  it("page counts that are too many only in 32 bits", () =>
    spoilField(FIELD.zeroPages, () => [0xffff_ffff], {
      code: "MULTIFD_TOO_MANY_PAGES",
      says: placed("4294967295 zero pages"),
    }));

  it("a RAM block that the main channel did not list", () =>
    spoilField(FIELD.ramBlock, () => [0x70632e72, 0x616e0000], {
      code: "RAM_BLOCK_UNKNOWN",
      says: placed('a packet names RAM block "pc.ran", the main channel listed "pc.ram"'),
    }));

  it("a RAM block name without an end", () =>
    spoilField(FIELD.ramBlock, () => Array.from({ length: 64 }, () => 0x61616161), {
      code: "WIRE_UNTERMINATED",
      says: placed("multifd RAM packet, ramBlock"),
    }));

  it("a page just behind the end of its RAM block", () =>
    spoilField(FIELD.offsets, () => [0, RAM_BYTES], {
      code: "MULTIFD_OFFSET_OUTSIDE",
      says: placed('page offset 0x800000 lies past the end of RAM block "pc.ram"'),
    }));

  it("a page at the end of 64 bits", () =>
    spoilField(FIELD.offsets, () => [0xffff_ffff, 0xffff_f000], {
      code: "MULTIFD_OFFSET_OUTSIDE",
      says: placed("page offset 0xfffffffffffff000 lies past the end"),
    }));

  it("a page at no multiple of the page size", () =>
    spoilField(FIELD.offsets, () => [0, 0x1001], {
      code: "MULTIFD_OFFSET_UNALIGNED",
      says: placed("page offset 0x1001 .* is no multiple of the page size"),
    }));

  it("a zero page outside its RAM block", () =>
    spoil(
      "none",
      (recording) => {
        const packet = findPacket(recording, ({ zeroPages }) => zeroPages > 0);
        return [patchWords(packet, FIELD.offsets + 8 * packet.normalPages, 1, 0)];
      },
      { code: "MULTIFD_OFFSET_OUTSIDE", says: placed("page offset 0x100000000 lies past the end") },
    ));

  it("a page announced twice", () =>
    spoil(
      "none",
      (recording) => {
        const packet = findPacket(recording, isData);
        return [patchWords(packet, FIELD.offsets, 0, 0x5000, 0, 0x5000)];
      },
      { code: "MULTIFD_DUPLICATE_PAGE", says: placed("page 5 is announced twice") },
    ));

  for (const difference of [-1, 1, -PAGE_BYTES, PAGE_BYTES]) {
    it(`${difference} bytes of payload beside its pages' own`, () =>
      spoilField(FIELD.payloadBytes, ({ payloadBytes }) => [payloadBytes + difference], {
        code: "MULTIFD_PAYLOAD_SIZE",
        says: placed("the packet announces \\d+ payload bytes, \\d+ pages of 4096 bytes were due"),
      }));
  }

  for (const method of methods) {
    for (const other of methods.filter((name) => name !== method)) {
      it(`${method}, where ${other} was agreed on`, () => {
        const recording = recordings.get(method)!;
        return assertRefused(
          { recording, receiver: { compression: other } },
          { code: "MULTIFD_COMPRESSION", says: placed(`compressed with ${method}, this side expects ${other}`) },
        );
      });
    }
  }

  for (const method of ["zlib", "zstd"] as const) {
    const isCompressed = (packet: RecordedPacket) => packet.normalPages > 0;
    /** The second one continues the stream that the first has opened. */
    const isLater = (recording: Recording) => {
      const first = findPacket(recording, isCompressed);
      return (packet: RecordedPacket) =>
        isCompressed(packet) && packet.channel === first.channel && packet.at > first.at;
    };
    /** A block of the type that neither format has. */
    const reservedBlock = method === "zlib" ? 0x06 : 0xfe;

    it(`${method} data that does not begin as such`, () =>
      spoil(method, (recording) => [patchPayload(findPacket(recording, isCompressed), 0, Buffer.alloc(8))], {
        code: "PAYLOAD_CORRUPT",
        says: placed("the compressed payload cannot be decoded"),
      }));

    it(`${method} data that is corrupt in a later packet`, () =>
      spoil(
        method,
        (recording) => {
          const packet = findPacket(recording, isLater(recording));
          return [patchPayload(packet, 0, Buffer.alloc(packet.payloadBytes, reservedBlock))];
        },
        { code: "PAYLOAD_CORRUPT", says: placed("the compressed payload cannot be decoded") },
      ));

    it(`${method} data of one byte less than its pages need`, () =>
      spoil(
        method,
        (recording) => {
          const packet = findPacket(recording, isCompressed);
          return [patchWords(packet, FIELD.payloadBytes, packet.payloadBytes - 8)];
        },
        { code: ["PAYLOAD_TOO_SHORT", "PAYLOAD_CORRUPT", "MULTIFD_MAGIC"], says: placed(".") },
      ));

    it(`${method} data that reaches into the next packet`, () =>
      spoil(
        method,
        (recording) => {
          const packet = findPacket(recording, isCompressed);
          return [patchWords(packet, FIELD.payloadBytes, packet.payloadBytes + 8)];
        },
        { code: ["PAYLOAD_TOO_LONG", "PAYLOAD_CORRUPT", "MULTIFD_MAGIC"], says: placed(".") },
      ));

    for (const bytes of [0, 2 ** 20 + 1, 2 ** 32 - 1]) {
      it(`${method} data announced as ${bytes} bytes`, () =>
        spoil(method, (recording) => [patchWords(findPacket(recording, isCompressed), FIELD.payloadBytes, bytes)], {
          code: "MULTIFD_PAYLOAD_SIZE",
          says: placed(`the packet announces ${bytes} payload bytes for \\d+ pages, 1 to 1048576 were due`),
        }));
    }

    it(`${method} data that ends before its pages are full`, () =>
      replacePayload(method, 4, 3.5, {
        code: "PAYLOAD_TOO_SHORT",
        says: placed("holds less than the packet's pages"),
      }));

    it(`${method} data that goes on when its pages are full`, () =>
      replacePayload(method, 4, 5, { code: "PAYLOAD_TOO_LONG", says: placed("holds more than the packet's pages") }));

    it(`${method} data that unfolds to far more than its pages`, () =>
      replacePayload(method, 4, 20_000, {
        code: "PAYLOAD_TOO_LONG",
        says: placed("holds more than the packet's pages"),
      }));
  }

  it("zlib data whose stream ends with the packet", async () => {
    const payload = deflateSync(pageContents(4));
    await withPayload("zlib", 4, payload, { code: "PAYLOAD_STREAM_ENDED", says: placed("must stay open") });
  });

  /** A packet of `pages` pages whose payload, well formed, holds the contents of another number of pages. */
  async function replacePayload(method: "zlib" | "zstd", pages: number, contents: number, due: DueRefusal) {
    const bytes = pageContents(contents);
    const payload =
      method === "zstd" ? await compress(bytes, 1) : deflateSync(bytes, { finishFlush: constants.Z_SYNC_FLUSH });
    await withPayload(method, pages, payload, due);
  }

  async function withPayload(method: QemuCompression, pages: number, payload: Uint8Array, due: DueRefusal) {
    const recording = recordings.get(method)!;
    const packet = findPacket(recording, isData);
    assert.ok(packet.normalPages >= pages && RAM_PAGES > pages);
    const channel = Buffer.from(recording.channels[packet.channel]!);
    const header = Buffer.from(channel.subarray(packet.at, packet.at + HEADER_BYTES));
    header.writeUInt32BE(pages, FIELD.normalPages);
    header.writeUInt32BE(0, FIELD.zeroPages);
    header.writeUInt32BE(payload.length, FIELD.payloadBytes);
    const rest = channel.subarray(packet.at + HEADER_BYTES + packet.payloadBytes);
    const channels = recording.channels.map((bytes, index) =>
      index === packet.channel ? Buffer.concat([channel.subarray(0, packet.at), header, payload, rest]) : bytes,
    );
    await assertRefused({ recording: { main: recording.main, channels }, receiver: { compression: method } }, due);
  }
});

function pageContents(pages: number): Buffer {
  return Buffer.alloc(pages * PAGE_BYTES, "page");
}
