import assert from "node:assert/strict";
import { inflateSync } from "node:zlib";
import fc from "fast-check";
import { viewOf } from "./layout.js";
import { PACKET_SYNC, type PacketMethod } from "./packet-flags.js";
import { checkNoDuplicates, putPageOffsets, takePageOffsets } from "./page-offsets.js";
import {
  checkPageCounts,
  checkPayload,
  decodeRamPacketHeader,
  encodeRamPacketHeader,
  packetPagesMax,
  RAM_PACKET_HEADER_BYTES,
  type RamPacketHeader,
  ramPacketBytes,
} from "./ram-packet.js";
import { joined, vector } from "./recorded-vectors.test.js";

const PAGE = 4096;
const header: RamPacketHeader = {
  flags: 0,
  pagesMax: 128,
  normalPages: 2,
  payloadBytes: 2 * PAGE,
  packetNumber: 7,
  zeroPages: 1,
  ramBlock: "pc.ram",
};

type Packet = RamPacketHeader & { readonly pages: readonly number[]; readonly payload: Uint8Array };

/** Takes a recorded channel apart with every check on; each byte must belong to a packet. */
function packetsOf(wire: Uint8Array, at: number, method: PacketMethod): Packet[] {
  const view = viewOf(wire);
  const packets: Packet[] = [];
  let next = at;
  while (next < wire.length) {
    const packet = decodeRamPacketHeader(view, next);
    checkPageCounts(packet, packetPagesMax(PAGE));
    const payloadBytes = checkPayload(packet, [method], PAGE);
    const count = packet.normalPages + packet.zeroPages;
    const pages = new Uint32Array(128);
    takePageOffsets(view, next + RAM_PACKET_HEADER_BYTES, count, PAGE, 2 ** 22, packet.ramBlock, pages, 0);
    checkNoDuplicates(pages, count, new Uint32Array(128));
    next += ramPacketBytes(PAGE);
    packets.push({ ...packet, pages: [...pages.subarray(0, count)], payload: wire.slice(next, next + payloadBytes) });
    next += payloadBytes;
  }
  assert.equal(next, wire.length);
  return packets;
}

const outline = (packets: readonly Packet[]) =>
  packets.map(({ flags, normalPages, zeroPages, ramBlock }) => [flags, normalPages, zeroPages, ramBlock]);

describe("RAM packets as QEMU sends them", () => {
  it("follow each other on an uncompressed channel of 7.2, stale sizes in packets without pages included", () => {
    const packets = packetsOf(vector("qemu-7.2/channel-none-end.bin.gz"), 0, "none");
    assert.deepEqual(outline(packets), [
      [0, 1, 0, "/rom@etc/table-loader"],
      [1, 1, 0, "/rom@etc/acpi/rsdp"],
      [0, 0, 0, "/rom@etc/acpi/rsdp"],
      [1, 0, 0, "/rom@etc/acpi/rsdp"],
    ]);
    assert.deepEqual(
      packets.map(({ payloadBytes, payload }) => [payloadBytes, payload.length]),
      [
        [PAGE, PAGE],
        [PAGE, PAGE],
        [PAGE, 0],
        [PAGE, 0],
      ],
    );
  });

  it("follow each other on an uncompressed channel of 11.1, zero pages included", () => {
    const packets = packetsOf(vector("qemu-11.1/channel-none-end.bin.gz"), 0, "none");
    assert.deepEqual(outline(packets), [
      [0, 0, 32, "pc.rom"],
      [0, 1, 0, "/rom@etc/table-loader"],
      [0, 1, 0, "/rom@etc/acpi/rsdp"],
      [1, 0, 0, ""],
      [1, 0, 0, ""],
    ]);
    assert.deepEqual(
      [...packets[0]!.pages].sort((a, b) => a - b),
      Array.from({ length: 32 }, (_, i) => i),
    );
  });

  it("are all zeros but for magic, version, flag and number in a SYNC of 11.1", () => {
    const wire = vector("qemu-11.1/channel-none-end.bin.gz");
    const sync = wire.slice(-ramPacketBytes(PAGE));
    const ours = new Uint8Array(sync.length);
    encodeRamPacketHeader(viewOf(ours), 0, {
      flags: PACKET_SYNC,
      pagesMax: 0,
      normalPages: 0,
      payloadBytes: 0,
      packetNumber: 17,
      zeroPages: 0,
      ramBlock: "",
    });
    assert.deepEqual(ours, sync);
  });

  for (const peer of ["qemu-7.2", "qemu-11.1"]) {
    it(`bear payloads that are one zlib stream on a zlib channel of ${peer}`, () => {
      const packets = packetsOf(vector(`${peer}/channel-zlib.bin.gz`), 64, "zlib");
      const pages = packets.reduce((sum, { normalPages }) => sum + normalPages, 0);
      const stream = joined(...packets.map(({ payload }) => payload));
      const plain = inflateSync(stream, { finishFlush: 2 });
      assert.equal(plain.length, pages * PAGE);
      const filled = packets
        .filter(({ ramBlock }) => ramBlock === "ram")
        .flatMap((p) => p.pages.slice(0, p.normalPages));
      assert.ok(filled.length > 80 && filled.every((page) => page % 3 === 0));
    });

    it(`account for every byte of a zstd channel of ${peer}`, () => {
      const packets = packetsOf(vector(`${peer}/channel-zstd.bin.gz`), 64, "zstd");
      const first = packets.find(({ normalPages }) => normalPages > 0)!;
      assert.deepEqual(first.payload.subarray(0, 4), Uint8Array.of(0x28, 0xb5, 0x2f, 0xfd));
    });
  }
});

describe("RAM packet header", () => {
  it("encodes the very bytes that QEMU 11.1 sends, page offsets included", () => {
    const wire = vector("qemu-11.1/channel-none-end.bin.gz").slice(0, ramPacketBytes(PAGE));
    const [packet] = packetsOf(wire, 0, "none");
    const ours = new Uint8Array(wire.length);
    encodeRamPacketHeader(viewOf(ours), 0, packet!);
    putPageOffsets(viewOf(ours), RAM_PACKET_HEADER_BYTES, Uint32Array.from(packet!.pages), 0, 32, PAGE);
    assert.deepEqual(ours, wire);
  });

  it("has 1344 bytes with the offsets of 4 KiB pages, 832 with those of 8 KiB", () => {
    assert.deepEqual([ramPacketBytes(4096), ramPacketBytes(8192)], [1344, 832]);
  });

  it("decodes what it encodes", () => {
    const any = fc.record(
      {
        flags: fc.nat({ max: 0xffffffff }),
        pagesMax: fc.nat({ max: 0xffffffff }),
        normalPages: fc.nat({ max: 0xffffffff }),
        payloadBytes: fc.nat({ max: 0xffffffff }),
        packetNumber: fc.maxSafeNat(),
        zeroPages: fc.nat({ max: 0xffffffff }),
        ramBlock: fc.stringMatching(/^[a-z0-9/@.:]{0,255}$/),
      },
      { noNullPrototype: true },
    );
    fc.assert(
      fc.property(any, (fields) => {
        const view = new DataView(new ArrayBuffer(RAM_PACKET_HEADER_BYTES));
        encodeRamPacketHeader(view, 0, fields);
        assert.deepEqual(decodeRamPacketHeader(view, 0), fields);
      }),
    );
  });

  it("rejects another magic and another version", () => {
    const view = new DataView(new ArrayBuffer(RAM_PACKET_HEADER_BYTES));
    encodeRamPacketHeader(view, 0, header);
    view.setUint32(4, 2);
    assert.throws(() => decodeRamPacketHeader(view, 0), { code: "MULTIFD_VERSION" });
    view.setUint32(0, 0x5145564d);
    assert.throws(() => decodeRamPacketHeader(view, 0), { code: "MULTIFD_MAGIC" });
  });

  it("rejects a RAM block's name without an end", () => {
    const view = new DataView(new ArrayBuffer(RAM_PACKET_HEADER_BYTES));
    encodeRamPacketHeader(view, 0, header);
    new Uint8Array(view.buffer, 64).fill(0x61);
    assert.throws(() => decodeRamPacketHeader(view, 0), { code: "WIRE_UNTERMINATED" });
  });
});

describe("page counts of a RAM packet", () => {
  it("may fill every slot", () => {
    checkPageCounts({ ...header, normalPages: 100, zeroPages: 28 }, 128);
    checkPageCounts({ ...header, pagesMax: 3 }, 128);
  });

  for (const [what, fields] of [
    [
      "more slots than a packet has, in a SYNC too",
      { pagesMax: 129, normalPages: 0, zeroPages: 0, flags: PACKET_SYNC },
    ],
    ["more normal pages than slots", { pagesMax: 128, normalPages: 129, zeroPages: 0 }],
    ["more zero pages than slots are left", { pagesMax: 128, normalPages: 128, zeroPages: 1 }],
    ["counts that overflow when added", { pagesMax: 128, normalPages: 1, zeroPages: 0xffffffff }],
  ] as const)
    it(`reject ${what}`, () => {
      assert.throws(() => checkPageCounts({ ...header, ...fields }, 128), { code: "MULTIFD_TOO_MANY_PAGES" });
    });
});

describe("payload of a RAM packet", () => {
  it("is as long as the normal pages without compression, and as announced with", () => {
    assert.equal(checkPayload(header, ["none"], PAGE), 8192);
    assert.equal(checkPayload({ ...header, flags: 4, payloadBytes: 99 }, ["zstd"], PAGE), 99);
    assert.equal(checkPayload({ ...header, flags: 3, payloadBytes: 1048576 }, ["zlib"], PAGE), 1048576);
  });

  it("is empty without normal pages, whatever a stale size says", () => {
    assert.equal(checkPayload({ ...header, normalPages: 0, payloadBytes: 0xffffffff }, ["none"], PAGE), 0);
    assert.equal(checkPayload({ ...header, normalPages: 0, zeroPages: 0, flags: PACKET_SYNC }, ["zstd"], PAGE), 0);
  });

  it("rejects another method and says what to set on which side", () => {
    assert.throws(() => checkPayload({ ...header, flags: 4 }, ["zlib"], PAGE), {
      code: "MULTIFD_COMPRESSION",
      message:
        /with zstd, .* expects zlib; set multifd-compression to zlib on the source, or to zstd on the destination/,
    });
    assert.throws(() => checkPayload({ ...header, normalPages: 0, flags: 32 }, ["none"], PAGE), {
      code: "MULTIFD_COMPRESSION",
      message: /with qatzip/,
    });
  });

  it("rejects flags that nobody has defined", () => {
    assert.throws(() => checkPayload({ ...header, flags: 0x80000000 }, ["none"], PAGE), { code: "MULTIFD_FLAGS" });
  });

  it("rejects raw pages of another size", () => {
    const code = "MULTIFD_PAYLOAD_SIZE";
    assert.throws(() => checkPayload({ ...header, payloadBytes: 16384 }, ["none"], PAGE), { code });
  });

  it("rejects compressed pages of no bytes, and of more than QEMU has room for", () => {
    const code = "MULTIFD_PAYLOAD_SIZE";
    assert.throws(() => checkPayload({ ...header, flags: 2, payloadBytes: 0 }, ["zlib"], PAGE), { code });
    assert.throws(() => checkPayload({ ...header, flags: 2, payloadBytes: 1048577 }, ["zlib"], PAGE), { code });
  });
});
