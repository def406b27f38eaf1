import assert from "node:assert/strict";
import fc from "fast-check";
import {
  emptyVmDescription,
  encodeCommand,
  encodeConfiguration,
  encodeFileHeader,
  encodeFlush,
  encodePage,
  encodeRamComplete,
  encodeRamPart,
  encodeRamSectionEnd,
  encodeRamStart,
  encodeStreamEnd,
  encodeZeroPage,
  encodeZeroPages,
  type RamBlockEntry,
} from "./main-stream.js";
import { parseUuid } from "./multifd-init.js";
import { eventsOf, joined, sourceOf, vector } from "./recorded-vectors.test.js";

const PAGE = 4096;

const BLOCKS: readonly RamBlockEntry[] = [
  { name: "ram", lengthBytes: 4194304 },
  { name: "/rom@etc/acpi/tables", lengthBytes: 131072 },
  { name: "pc.bios", lengthBytes: 262144 },
  { name: "pc.rom", lengthBytes: 131072 },
  { name: "/rom@etc/table-loader", lengthBytes: 4096 },
  { name: "/rom@etc/acpi/rsdp", lengthBytes: 4096 },
];

/** Asserts that the recorded stream contains nothing before its device sections but these pieces. */
function assertStartsWith(recorded: Uint8Array, ...pieces: readonly Uint8Array[]): void {
  const ours = joined(...pieces);
  assert.deepEqual(recorded.subarray(0, ours.length), ours);
}

describe("main stream", () => {
  it("is encoded up to the device sections as QEMU 11.1 sends it", () => {
    assertStartsWith(
      vector("qemu-11.1/main.bin.gz"),
      encodeFileHeader(),
      encodeConfiguration({ machineType: "pc-i440fx-11.1" }),
      encodeCommand({ name: "open-return-path" }),
      encodeCommand({ name: "ping", value: 1 }),
      encodeRamStart(1, BLOCKS),
      encodeFlush(),
      encodeRamSectionEnd(1),
      encodeRamPart(1),
      encodeFlush(),
      encodeRamSectionEnd(1),
      encodeCommand({ name: "switchover-start" }),
      encodeRamComplete(1),
      encodeFlush(),
      encodeRamSectionEnd(1),
      Uint8Array.of(4),
    );
  });

  it("is encoded up to the device sections as QEMU 7.2 sends it, zero pages included", async () => {
    const recorded = vector("qemu-7.2/main.bin.gz");
    const zeroPages = (await eventsOf(sourceOf(recorded))).flatMap((event) =>
      event.kind === "zero-pages" ? [encodeZeroPages(event.block, event.pages, PAGE)] : [],
    );
    assertStartsWith(
      recorded,
      encodeFileHeader(),
      encodeConfiguration({ machineType: "pc-i440fx-7.2" }),
      encodeCommand({ name: "open-return-path" }),
      encodeCommand({ name: "ping", value: 1 }),
      encodeRamStart(2, BLOCKS),
      encodeRamSectionEnd(2),
      encodeRamPart(2),
      ...zeroPages,
      encodeRamSectionEnd(2),
      encodeRamComplete(2),
      encodeRamSectionEnd(2),
      Uint8Array.of(4),
    );
  });

  it("is encoded with a UUID as QEMU 7.2 sends it", () => {
    const uuid = parseUuid("01234567-89ab-cdef-0123-456789abcdef");
    const ours = joined(encodeFileHeader(), encodeConfiguration({ machineType: "pc-q35-7.2", uuid }));
    assert.deepEqual(ours, vector("qemu-7.2/configuration-uuid.bin"));
  });

  it("is encoded with x-ignore-shared and block addresses as QEMU 11.1 sends it", () => {
    const addresses = [0, 0, 0xfffc0000, 0xc0000, 0, 0];
    const ours = joined(
      encodeFileHeader(),
      encodeConfiguration({ machineType: "pc-i440fx-11.1", capabilities: ["x-ignore-shared"] }),
      encodeRamStart(
        1,
        BLOCKS.map((block, i) => ({ ...block, address: addresses[i]! })),
      ),
      encodeFlush(),
      encodeRamSectionEnd(1),
    );
    assert.deepEqual(ours, vector("qemu-11.1/main-ignore-shared-head.bin"));
  });

  it("is decoded to what was encoded, however it is cut into chunks", async () => {
    const page = new Uint8Array(PAGE).fill(7);
    const stream = joined(
      encodeFileHeader(),
      encodeConfiguration({ machineType: "virt-10.0", targetPageBits: 12 }),
      encodeRamStart(9, BLOCKS),
      encodeRamSectionEnd(9),
      encodeRamPart(9),
      encodeZeroPage("pc.rom", PAGE),
      encodePage(null, 2 * PAGE, page),
      encodePage("ram", 0, page),
      encodeZeroPage(null, 4194304 - PAGE),
      encodeZeroPages("pc.bios", Uint32Array.of(3, 1), PAGE),
      encodeFlush(),
      encodeRamSectionEnd(9),
      encodeRamComplete(9),
      encodeRamSectionEnd(9),
      encodeStreamEnd(emptyVmDescription(PAGE)),
    );
    await fc.assert(
      fc.asyncProperty(fc.integer({ min: 1, max: 300 }), async (chunkBytes) => {
        const events = await eventsOf(sourceOf(stream, chunkBytes));
        // How zero pages are batched depends on the chunks: compare them page by page.
        const facts = events.flatMap((event) => {
          if (event.kind === "zero-pages") return [...event.pages].map((page) => ["zero", event.block, page]);
          if (event.kind === "page") return [["page", event.block, event.page, event.bytes[0], event.bytes.length]];
          return [[event.kind, "phase" in event ? event.phase : ""]];
        });
        assert.deepEqual(facts, [
          ["configuration", ""],
          ["ram-blocks", ""],
          ["section-end", "setup"],
          ["zero", "pc.rom", 1],
          ["page", "pc.rom", 2, 7, PAGE],
          ["page", "ram", 0, 7, PAGE],
          ["zero", "ram", 1023],
          ["zero", "pc.bios", 3],
          ["zero", "pc.bios", 1],
          ["flush", "iterate"],
          ["section-end", "iterate"],
          ["section-end", "complete"],
          ["devices", ""],
        ]);
      }),
      { numRuns: 50 },
    );
  });
});
