import assert from "node:assert/strict";
import { ChunkSource } from "./byte-source.js";
import { ByteWriter } from "./byte-writer.js";
import { walkDeviceSections } from "./device-sections.js";
import type { MainEvent, MainStreamLimits } from "./main-events.js";
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
import { decodeMainStream } from "./main-stream-decoder.js";
import { eventsOf, joined, sourceOf, vector } from "./recorded-vectors.test.js";
import { parseVmDescription } from "./vm-description.js";

const PAGE = 4096;
const HEAD = joined(encodeFileHeader(), encodeConfiguration({ machineType: "pc-q35-10.0" }));
const SETUP = joined(HEAD, encodeRamStart(1, [{ name: "ram", lengthBytes: 4 * PAGE }]), encodeRamSectionEnd(1));
const COMPLETE = joined(SETUP, encodeRamComplete(1), encodeRamSectionEnd(1));
const WHOLE = joined(COMPLETE, encodeStreamEnd(emptyVmDescription(PAGE)));

const outline = (events: readonly MainEvent[]) =>
  events.map((event) => {
    if (event.kind === "command") return event.name;
    if (event.kind === "zero-pages") return `${event.pages.length} zero pages of ${event.block}`;
    return "phase" in event ? `${event.kind} ${event.phase}` : event.kind;
  });

function eventOf<Kind extends MainEvent["kind"]>(events: readonly MainEvent[], kind: Kind) {
  return events.find((event) => event.kind === kind) as Extract<MainEvent, { kind: Kind }>;
}

/** Asserts that a stream is refused. */
async function assertRefused(
  stream: Uint8Array,
  due: { readonly code: string; readonly message?: RegExp },
  limits?: Partial<MainStreamLimits>,
): Promise<void> {
  await assert.rejects(eventsOf(sourceOf(stream), limits), { name: "ProtocolError", ...due });
}

describe("main stream as QEMU sends it", () => {
  for (const [peer, tail, before] of [
    [
      "qemu-7.2",
      111512,
      [
        "section-end setup",
        "682 zero pages of ram",
        "31 zero pages of /rom@etc/acpi/tables",
        "18 zero pages of pc.bios",
        "32 zero pages of pc.rom",
        "section-end iterate",
      ],
    ],
    [
      "qemu-11.1",
      108919,
      [
        "flush setup",
        "section-end setup",
        "flush iterate",
        "section-end iterate",
        "switchover-start",
        "flush complete",
      ],
    ],
  ] as const) {
    it(`is decoded to its last byte from ${peer}`, async () => {
      const stream = vector(`${peer}/main.bin.gz`);
      const source = sourceOf(stream);
      const events = await eventsOf(source);
      const start = ["configuration", "open-return-path", "ping", "ram-blocks"];
      assert.deepEqual(outline(events), [...start, ...before, "section-end complete", "devices"]);
      const { bytes } = eventOf(events, "devices");
      assert.equal(bytes.length, tail);
      assert.deepEqual(bytes, stream.subarray(stream.length - tail));
      assert.equal(source.position, stream.length);
    });

    it(`has device sections that are accounted for byte by byte from ${peer}`, async () => {
      const { bytes, description } = eventOf(await eventsOf(sourceOf(vector(`${peer}/main.bin.gz`), 1000)), "devices");
      const { sections, end } = walkDeviceSections(bytes, parseVmDescription(description));
      assert.equal(
        sections.reduce((at, section) => {
          assert.equal(section.at, at);
          return at + section.lengthBytes;
        }, 0),
        end,
      );
      assert.deepEqual([sections.length, sections.at(-1)!.name], [30, "globalstate"]);
    });
  }

  it("names machine type, UUID and the configuration's own bytes", async () => {
    const wire = vector("qemu-7.2/configuration-uuid.bin");
    const [event] = await eventsOf(sourceOf(joined(wire, WHOLE.subarray(HEAD.length))));
    assert.deepEqual(event, {
      kind: "configuration",
      machineType: "pc-q35-7.2",
      pageBytes: PAGE,
      capabilities: [],
      uuid: Uint8Array.of(1, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef, 1, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef),
      bytes: wire.subarray(8),
    });
  });

  it("gives each block's address with x-ignore-shared", async () => {
    const stream = vector("qemu-11.1/main-ignore-shared-head.bin");
    const end = joined(encodeRamComplete(1), encodeRamSectionEnd(1), encodeStreamEnd(emptyVmDescription(PAGE)));
    const { blocks } = eventOf(await eventsOf(sourceOf(joined(stream, end))), "ram-blocks");
    assert.deepEqual(
      blocks.map(({ address }) => address),
      [0, 0, 0xfffc0000, 0xc0000, 0, 0],
    );
  });
});

describe("main stream decoder", () => {
  it("emits the block list before the rest of its section has come, and does not ask for more", async () => {
    const list = joined(HEAD, encodeRamStart(1, [{ name: "ram", lengthBytes: PAGE }]));
    const events = decodeMainStream(new ChunkSource(thenSilent(list)));
    assert.equal((await events.next()).value?.kind, "configuration");
    assert.deepEqual((await events.next()).value, {
      kind: "ram-blocks",
      sectionId: 1,
      blocks: [{ name: "ram", lengthBytes: PAGE }],
    });
  });

  it("emits zero pages before it waits for more records", async () => {
    const part = joined(SETUP, encodeRamPart(1), encodeZeroPages("ram", Uint32Array.of(0, 3), PAGE));
    const events = decodeMainStream(new ChunkSource(thenSilent(part)));
    for (const due of ["configuration", "ram-blocks", "section-end", "zero-pages"])
      assert.equal((await events.next()).value?.kind, due);
  });

  it("takes the page size from the configuration", async () => {
    const head = joined(encodeFileHeader(), encodeConfiguration({ machineType: "virt-9.0", targetPageBits: 16 }));
    const ram = joined(encodeRamStart(1, [{ name: "ram", lengthBytes: 131072 }]), encodeRamSectionEnd(1));
    const pages = joined(encodeRamComplete(1), encodeZeroPage("ram", 65536), encodeRamSectionEnd(1));
    const events = await eventsOf(sourceOf(joined(head, ram, pages, encodeStreamEnd(emptyVmDescription(65536)))));
    assert.equal(eventOf(events, "configuration").pageBytes, 65536);
    assert.deepEqual(eventOf(events, "zero-pages").pages, Uint32Array.of(1));
  });

  it("splits more zero pages than one event holds", async () => {
    const pages = Uint32Array.from({ length: 150000 }, (_, page) => page);
    const ram = joined(HEAD, encodeRamStart(1, [{ name: "ram", lengthBytes: 150000 * PAGE }]), encodeRamSectionEnd(1));
    const stream = [ram, encodeRamComplete(1), encodeZeroPages("ram", pages, PAGE), encodeRamSectionEnd(1)];
    const events = await eventsOf(
      sourceOf(new Uint8Array(Buffer.concat([...stream, encodeStreamEnd(emptyVmDescription(PAGE))]))),
    );
    const came = events.flatMap((event) => (event.kind === "zero-pages" ? [event.pages] : []));
    assert.deepEqual([came.length, came.flatMap((batch) => [...batch])], [3, [...pages]]);
  });

  it("finds the end behind device state that looks like an end", async () => {
    const decoy = encodeStreamEnd(emptyVmDescription(PAGE));
    const data = new ByteWriter().u8(4).u32(7).name("dev").u32(0).u32(1).bytes(decoy).u8(0x7e).u32(7).finish();
    const field = { name: "data", size: decoy.length, type: "buffer" };
    const device = { name: "dev", instance_id: 0, size: decoy.length, fields: [field] };
    const description = JSON.stringify({ page_size: PAGE, devices: [device] });
    const events = await eventsOf(sourceOf(joined(COMPLETE, data, encodeStreamEnd(description))));
    assert.equal(eventOf(events, "devices").description, description);
  });

  it("refuses a broken end although the connection stays open", async () => {
    const stream = joined(COMPLETE, encodeStreamEnd('{"page_size":4096,"devices":[{"name":"x"}]}'));
    await assert.rejects(eventsOf(new ChunkSource(thenSilent(stream))), { code: "DESCRIPTION_SHAPE" });
  });
});

/** The bytes, and then a connection that stays open and says nothing. */
async function* thenSilent(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  yield bytes;
  await new Promise(() => {});
}

describe("main stream decoder refuses", () => {
  const ram = (blocks: readonly RamBlockEntry[]) => joined(HEAD, encodeRamStart(1, blocks));
  const record = (flags: number, ...rest: readonly number[]) =>
    joined(SETUP, encodeRamPart(1), new ByteWriter().u64(flags).finish(), Uint8Array.from(rest));
  const section = (type: number, name: string, instanceId = 0, version = 4) =>
    new ByteWriter().u8(type).u32(5).name(name).u32(instanceId).u32(version).finish();
  const command = (number: number, length: number) => new ByteWriter().u8(8).u16(number).u16(length).finish();
  const configuration = (name: string, version: number, ...body: readonly number[]) =>
    joined(HEAD, new ByteWriter().u8(5).name(name).u32(version).finish(), Uint8Array.from(body));
  const byte = (type: number) => Uint8Array.of(type);

  const refusals: readonly (readonly [string, Uint8Array, string, RegExp])[] = [
    ["what is no migration stream", vector("qemu-7.2/init-channel-1.bin"), "STREAM_MAGIC", /0x11223344 came/],
    ["the obsolete version 2", Uint8Array.of(0x51, 0x45, 0x56, 0x4d, 0, 0, 0, 2), "STREAM_VERSION", /obsolete/],
    ["a stream without configuration", joined(encodeFileHeader(), byte(1)), "STREAM_CONFIGURATION", /2\.4 or later/],
    [
      "an empty machine type",
      joined(encodeFileHeader(), byte(7), new Uint8Array(4)),
      "STREAM_CONFIGURATION",
      /0 bytes/,
    ],
    ["an unknown configuration", configuration("configuration/x", 1), "STREAM_CONFIGURATION", /"configuration\/x"/],
    ["a newer configuration", configuration("configuration/uuid", 2), "STREAM_CONFIGURATION", /version 2 came/],
    [
      "an absurd page size",
      configuration("configuration/target-page-bits", 1, 0, 0, 0, 40),
      "STREAM_CONFIGURATION",
      /40/,
    ],
    [
      "a snapshot file",
      joined(encodeFileHeader(), encodeConfiguration({ machineType: "pc", capabilities: ["mapped-ram"] })),
      "STREAM_MAPPED_RAM",
      /snapshot file, not a stream/,
    ],
    ["postcopy", joined(HEAD, command(3, 16)), "STREAM_COMMAND", /POSTCOPY_ADVISE.*switch capability postcopy-ram off/],
    ["COLO", joined(HEAD, command(8, 0)), "STREAM_COMMAND", /ENABLE_COLO.*x-colo/],
    ["a packaged stream", joined(HEAD, command(7, 4)), "STREAM_COMMAND", /PACKAGED/],
    ["an unknown command", joined(HEAD, command(99, 0)), "STREAM_COMMAND", /99 \(unknown\)/],
    ["a PING of another length", joined(HEAD, command(2, 8)), "STREAM_COMMAND", /8 bytes, 4 were due/],
    [
      "VFIO state",
      joined(HEAD, section(1, "0000:00:02.0/vfio")),
      "STREAM_SECTION_UNSUPPORTED",
      /VFIO.*enable-migration/,
    ],
    ["dirty bitmaps", joined(SETUP, section(1, "dirty-bitmap")), "STREAM_SECTION_UNSUPPORTED", /dirty-bitmaps off/],
    ["early device state", joined(HEAD, section(4, "virtio-mem")), "STREAM_SECTION_UNSUPPORTED", /x-early-migration/],
    ["RAM of another version", joined(HEAD, section(1, "ram", 0, 3)), "STREAM_SECTION", /version 3 came/],
    ["RAM of another instance", joined(HEAD, section(1, "ram", 1, 4)), "STREAM_SECTION", /instance 1/],
    ["a second RAM start", joined(SETUP, section(1, "ram")), "STREAM_SECTION", /"ram" starts a second time/],
    ["a RAM part before RAM start", joined(HEAD, encodeRamPart(1)), "STREAM_SECTION", /0x2 came/],
    ["a RAM part after RAM's end", joined(COMPLETE, encodeRamPart(1)), "STREAM_SECTION", /0x2 came/],
    ["a part of an unknown section", joined(SETUP, encodeRamPart(2)), "STREAM_SECTION", /section id 2 came.*\(1\)/],
    ["an end before RAM's end", joined(SETUP, byte(0)), "STREAM_SECTION", /before the end of RAM/],
    ["an unknown section type", joined(SETUP, byte(0x7f)), "STREAM_SECTION", /0x7f/],
    [
      "another footer",
      joined(SETUP, encodeRamPart(1), encodeRamSectionEnd(2)),
      "STREAM_FOOTER",
      /0x7e with section id 2 came, 0x7e with 1/,
    ],
    ["a section without block list", joined(HEAD, section(1, "ram"), encodeFlush()), "RAM_BLOCK_LIST", /0x200 came/],
    ["a block without a name", ram([{ name: "", lengthBytes: PAGE }]), "RAM_BLOCK_LIST", /no name/],
    [
      "a block listed twice",
      ram([
        { name: "a", lengthBytes: PAGE },
        { name: "a", lengthBytes: PAGE },
      ]),
      "RAM_BLOCK_LIST",
      /"a" is listed twice/,
    ],
    [
      "more than 2^32 pages in a block",
      ram([{ name: "a", lengthBytes: 2 ** 45 }]),
      "RAM_BLOCK_LIST",
      /at most 2\^32 whole pages/,
    ],
    ["more RAM than it takes", ram([{ name: "a", lengthBytes: 2 ** 51 }]), "RAM_BLOCK_LIST", /0x8000000000000 bytes/],
    ["an xbzrle page", record(0x40), "RAM_RECORD", /capability xbzrle off/],
    ["a compressed page", record(0x100), "RAM_RECORD", /capability compress off/],
    ["an RDMA record", record(0x80), "RAM_RECORD", /RDMA/],
    ["a second block list", record(0x4), "RAM_RECORD", /comes once/],
    ["an unknown record", record(0x400), "RAM_RECORD", /0x400/],
    ["an EOS with an offset", record(0x1010), "RAM_RECORD", /offset 0x1000/],
    ["a repeated block when there was none", record(0x22, 0), "RAM_RECORD", /none was named/],
    ["a block that is not listed", record(0x2, 1, 0x78, 0), "RAM_BLOCK_UNKNOWN", /"x" is not in the block list/],
    [
      "a zero page outside",
      record(0x4002, 3, 0x72, 0x61, 0x6d, 0),
      "RAM_OFFSET_OUTSIDE",
      /0x4000 lies past.*0x4000 bytes/,
    ],
    ["a page outside", record(0x4008, 3, 0x72, 0x61, 0x6d), "RAM_OFFSET_OUTSIDE", /0x4000/],
    ["a page filled with another byte", record(0x2, 3, 0x72, 0x61, 0x6d, 9), "RAM_ZERO_FILL", /0x9 came/],
    [
      "pages in the set-up section",
      joined(ram([{ name: "a", lengthBytes: PAGE }]), encodePage("a", 0, new Uint8Array(PAGE))),
      "RAM_RECORD",
      /\(setup\)/,
    ],
    [
      "a description that is no JSON",
      joined(COMPLETE, encodeStreamEnd("{nonsense}")),
      "DESCRIPTION_SYNTAX",
      /not JSON/,
    ],
    [
      "a description of sections that are not there",
      joined(
        COMPLETE,
        encodeStreamEnd(JSON.stringify({ page_size: 1, devices: [{ name: "d", instance_id: 0, size: 1 }] })),
      ),
      "DEVICE_SECTION",
      /section "d": 0x0 came, 0x4 was due/,
    ],
  ];
  for (const [what, stream, code, message] of refusals)
    it(what, async () => {
      await assertRefused(stream, { code, message });
    });

  it("a block longer than what is left of the total", async () => {
    const stream = ram([{ name: "a", lengthBytes: PAGE }]);
    stream[stream.length - 3] = 1;
    await assertRefused(stream, { code: "RAM_BLOCK_LIST", message: /switch postcopy-ram off/ });
  });

  it("a block that is no whole number of pages", async () => {
    const list = new ByteWriter()
      .bytes(section(1, "ram"))
      .u64(PAGE + 4)
      .name("a")
      .u64(100)
      .finish();
    await assertRefused(joined(HEAD, list), { code: "RAM_BLOCK_LIST", message: /whole pages/ });
  });

  it("more blocks, a longer machine type or a longer tail than the caller allows", async () => {
    await assertRefused(WHOLE, { code: "RAM_BLOCK_LIST", message: /more than 0 RAM blocks/ }, { blocksMax: 0 });
    await assertRefused(
      WHOLE,
      { code: "STREAM_CONFIGURATION", message: /1 to 3 were due/ },
      { machineTypeBytesMax: 3 },
    );
    await assertRefused(
      vector("qemu-7.2/main.bin.gz"),
      { code: "STREAM_TAIL_SIZE", message: /longer than 5000 bytes/ },
      { deviceBytesMax: 5000 },
    );
    await assertRefused(WHOLE, { code: "RAM_BLOCK_LIST", message: /at most 0x1000/ }, { ramBytesMax: PAGE });
  });

  it("a command inside which the stream ends, as a broken link", async () => {
    const cut = joined(HEAD, encodeCommand({ name: "ping", value: 1 })).slice(0, -1);
    await assert.rejects(eventsOf(sourceOf(cut)), {
      name: "ChannelError",
      code: "STREAM_CUT",
      message: /^main channel, byte 32: the stream ended inside command;/,
    });
  });
});
