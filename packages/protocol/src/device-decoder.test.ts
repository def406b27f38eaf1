import assert from "node:assert/strict";
import fc from "fast-check";
import { ByteWriter } from "./byte-writer.js";
import { decodeDeviceSections } from "./device-decoder.js";
import type { DecodedDevice, DecodedField, DecodedState } from "./device-tree.js";
import { decodeMainStream } from "./main-stream-decoder.js";
import { sourceOf, vector } from "./recorded-vectors.test.js";
import { parseVmDescription } from "./vm-description.js";

const vmsd = (name: string, fields: string, rest = "") =>
  `"vmsd_name":"${name}","version":1,"fields":[${fields}]${rest}`;
const field = (name: string, type: string, size: number, rest = "") =>
  `{"name":"${name}","type":"${type}"${rest},"size":${size}}`;
const describeDevices = (...devices: string[]) =>
  parseVmDescription(`{"page_size":4096,"devices":[${devices.map((device) => `{${device}}`).join()}]}`, "parts");
const device = (name: string, fields: string, rest = "") =>
  `"name":"${name}","instance_id":0,${vmsd(name, fields, rest)}`;

function section(name: string, id: number, data: Uint8Array): Uint8Array {
  return new ByteWriter().u8(4).u32(id).name(name).u32(0).u32(1).bytes(data).u8(0x7e).u32(id).finish();
}

function stream(...sections: Uint8Array[]): Uint8Array {
  const out = new ByteWriter();
  for (const bytes of sections) out.bytes(bytes);
  return out.u8(0).finish();
}

/** A tree without places: name → value, struct → object, list → array. */
function outline({ fields, subsections }: DecodedState): unknown {
  return Object.fromEntries([
    ...fields.map((each) => [each.index === null ? each.name : `${each.name}[${each.index}]`, plainValue(each)]),
    ...subsections.map((each) => [each.name, outline(each)]),
  ]);
}

function plainValue({ content }: DecodedField): unknown {
  switch (content.kind) {
    case "scalar":
      return content.value;
    case "scalars":
      return content.values;
    case "state":
      return outline(content.state);
    case "states":
      return content.states.map(outline);
    case "entries":
      return content.entries.map(({ key, value }) => [
        typeof key === "object" && key !== null ? outline(key) : key,
        outline(value),
      ]);
    case "bytes":
      return Buffer.from(content.bytes).toString("hex");
  }
}

/** Decodes one device whose fields are `fields`; whatever is in it must be accounted for. */
function decodeOne(fields: string, data: ByteWriter, rest = ""): DecodedDevice {
  const { devices, unaccounted } = decodeDeviceSections(
    stream(section("d", 7, data.finish())),
    describeDevices(device("d", fields, rest)),
    1000,
  );
  assert.deepEqual(unaccounted, []);
  return devices[0]!;
}

const X = field("x", "uint16", 2);

describe("decoding of device sections", () => {
  it("names every field: scalars, arrays, buffers, structs, arrays of structs, subsections", () => {
    const struct = `,"array_len":2,"struct":{${vmsd("part", X)}}`;
    const one = `,"struct":{${vmsd("part", X)}}`;
    const decoded = decodeOne(
      [
        field("on", "bool", 1),
        field("words", "uint16", 2, ',"array_len":3'),
        field("rom", "buffer", 4),
        field("odd", "of its own", 2),
        field("wide", "uint32", 3),
        field("one", "struct", 2, one),
        field("two", "struct", 2, struct),
        field("at", "uint8", 1, ',"index":0'),
        field("at", "uint8", 1, ',"index":1'),
      ].join(),
      new ByteWriter()
        .u8(1)
        .u16(1)
        .u16(2)
        .u16(3)
        .u32(0xdeadbeef)
        .u16(0xabcd)
        .bytes(Uint8Array.of(1, 2, 3))
        .u16(10)
        .u16(20)
        .u16(21)
        .u8(5)
        .u8(6)
        .bytes(new ByteWriter().u8(5).name("d/more").u32(1).u16(99).finish()),
      `,"subsections":[{${vmsd("d/more", X)}}]`,
    );
    assert.deepEqual(outline(decoded.state), {
      on: true,
      words: [1, 2, 3],
      rom: "deadbeef",
      odd: "abcd",
      wide: "010203",
      one: { x: 10 },
      two: [{ x: 20 }, { x: 21 }],
      "at[0]": 5,
      "at[1]": 6,
      "d/more": { x: 99 },
    });
    const headerBytes = 1 + 4 + 2 + 4 + 4;
    assert.deepEqual(
      [decoded.name, decoded.vmsdName, decoded.sectionId, decoded.at, decoded.bytes.length, decoded.lengthBytes],
      ["d", "d", 7, 1000, 38, headerBytes + 38 + 5],
    );
    assert.deepEqual(
      decoded.state.fields.slice(0, 3).map(({ at, lengthBytes }) => [at - 1000 - headerBytes, lengthBytes]),
      [
        [0, 1],
        [1, 6],
        [7, 4],
      ],
    );
  });

  it("reads the elements of lists that repeat their description", () => {
    const inner = field("inner", "qlist", 4, `,${vmsd("leaf", X)}`);
    const list = field("list", "qtailq", 11, `,${vmsd("a", X)},${vmsd("b", `${X},${inner}`)}`);
    const data = new ByteWriter().u8(1).u16(1).u8(1).u16(2).u8(1).u16(3).u8(0).u8(0);
    assert.deepEqual(outline(decodeOne(`${list},${X}`, data.u16(4)).state), {
      list: [{ x: 1 }, { x: 2, inner: [{ x: 3 }] }],
      x: 4,
    });
  });

  it("reads empty lists and trees", () => {
    const fields = [field("q", "qtailq", 1), field("l", "qlist", 1), field("g", "gtree", 5)].join();
    assert.deepEqual(outline(decodeOne(fields, new ByteWriter().u8(0).u8(0).u32(0).u8(0)).state), {
      q: [],
      l: [],
      g: [],
    });
  });

  it("reads trees with keys of their own, and with numbers for keys", () => {
    const states = field("g", "gtree", 15, `,${vmsd("k", X)},${vmsd("v", X)},${vmsd("k", X)},${vmsd("v", X)}`);
    const numbers = field("n", "gtree", 16, `,${vmsd("v", X)}`);
    const data = new ByteWriter().u32(2).u8(1).u16(1).u16(2).u8(1).u16(3).u16(4).u8(0);
    data.u32(1).u8(1).u32(0xffffffff).u32(0xffffffff).u16(5).u8(0);
    assert.deepEqual(outline(decodeOne(`${states},${numbers}`, data).state), {
      g: [
        [{ x: 1 }, { x: 2 }],
        [{ x: 3 }, { x: 4 }],
      ],
      n: [[2n ** 64n - 1n, { x: 5 }]],
    });
  });

  it("reads what a vstruct and a tmp consist of, in arrays too", () => {
    const fields = [
      field("v", "vstruct", 2, `,${vmsd("v", X)}`),
      field("t", "tmp", 2, `,${vmsd("t", X)}`),
      field("w", "vstruct", 2, `,"array_len":2,${vmsd("w", X)}`),
    ].join();
    const data = new ByteWriter().u16(1).u16(2).u16(3).u16(4);
    assert.deepEqual(outline(decodeOne(fields, data).state), { v: { x: 1 }, t: { x: 2 }, w: [{ x: 3 }, { x: 4 }] });
  });

  it("keeps a list's bytes, with the reason, where its elements do not fit; what follows is read", () => {
    const list = field("list", "qtailq", 4, `,${vmsd("a", X)}`);
    const { state } = decodeOne(`${list},${X}`, new ByteWriter().u8(1).u16(1).u8(9).u16(4));
    assert.deepEqual(outline(state), { list: "01000109", x: 4 });
    const { content } = state.fields[0]!;
    assert.match(
      content.kind === "bytes" ? String(content.note) : "",
      /byte 1018, field "list": 0x9 came, 0x0 was due/,
    );
  });

  it("keeps an old device's bytes as one field", () => {
    const { devices, unaccounted } = decodeDeviceSections(
      stream(section("old", 3, Uint8Array.of(1, 2, 3))),
      describeDevices('"name":"old","instance_id":0,"size":3'),
      0,
    );
    assert.deepEqual(unaccounted, []);
    assert.deepEqual([devices[0]!.vmsdName, outline(devices[0]!.state)], [null, { data: "010203" }]);
  });

  describe("of a device that describes itself wrongly", () => {
    const good = device("good", X);
    const goodBytes = section("good", 2, Uint8Array.of(0, 9));

    function decodePair(fields: string, data: Uint8Array) {
      const bytes = stream(section("bad", 1, data), goodBytes);
      return { bytes, ...decodeDeviceSections(bytes, describeDevices(device("bad", fields), good), 0) };
    }

    it("reports the bytes that no field takes, and reads the next device", () => {
      const { devices, unaccounted } = decodePair(X, Uint8Array.of(0, 7, 1, 1, 1));
      assert.deepEqual(
        devices.map(({ state }) => outline(state)),
        [{ x: 7 }, { x: 9 }],
      );
      const at = 1 + 4 + 4 + 8 + 2;
      assert.deepEqual(
        unaccounted.map(({ section, at, lengthBytes }) => [section, at, lengthBytes]),
        [["bad", at, 3]],
      );
      assert.match(unaccounted[0]!.reason, /byte 19, section "bad", footer: 0x1 came, 0x7e was due/);
    });

    it("takes nothing for read where the fields run past the section's end", () => {
      const { devices, unaccounted } = decodePair(`${X},${field("y", "buffer", 20)}`, Uint8Array.of(0, 7, 1));
      assert.deepEqual(
        devices.map(({ state }) => outline(state)),
        [{}, { x: 9 }],
      );
      assert.deepEqual(
        unaccounted.map(({ section, lengthBytes }) => [section, lengthBytes]),
        [["bad", 3]],
      );
    });

    it("reports all that is left where the section's end cannot be found", () => {
      const bytes = stream(section("bad", 1, Uint8Array.of(7)));
      bytes[bytes.length - 6] = 0;
      const { devices, unaccounted } = decodeDeviceSections(bytes, describeDevices(device("bad", X), good), 0);
      assert.equal(devices.length, 1);
      assert.deepEqual(
        unaccounted.map(({ at, lengthBytes }) => at + lengthBytes),
        [bytes.length],
      );
    });

    it("reports all that is left where another section comes than is described", () => {
      const { devices, unaccounted } = decodeDeviceSections(
        stream(goodBytes),
        describeDevices(device("d", X), good),
        0,
      );
      assert.deepEqual([devices.length, unaccounted[0]!.at, unaccounted[0]!.section], [0, 0, null]);
      assert.match(unaccounted[0]!.reason, /the name "good" came, "d" was due/);
    });

    it("reports sections that are not described at all", () => {
      const { unaccounted } = decodeDeviceSections(stream(goodBytes), describeDevices(), 5);
      assert.deepEqual([unaccounted[0]!.at, unaccounted[0]!.lengthBytes], [5, goodBytes.length]);
    });
  });

  it("does not let a description turn a byte into a tree of millions", () => {
    const empty = field("e", "uint8", 0, ',"array_len":0');
    const struct = `,"array_len":30000,"struct":{${vmsd("s", `${`${empty},`.repeat(200)}${field("b", "uint8", 1)}`)}}`;
    const { unaccounted } = decodeDeviceSections(
      stream(section("d", 7, new Uint8Array(30_000))),
      describeDevices(device("d", field("many", "struct", 1, struct))),
      0,
    );
    assert.match(unaccounted[0]!.reason, /more than \d+ fields and values/);
  });

  for (const peer of ["qemu-7.2", "qemu-11.1"])
    it(`accounts for every byte of what ${peer} sent, and survives any byte changed`, async () => {
      for await (const event of decodeMainStream(sourceOf(vector(`${peer}/main.bin.gz`)))) {
        if (event.kind !== "devices") continue;
        const description = parseVmDescription(event.description, "parts");
        const bytes = event.bytes.slice(0, event.bytes.length - Buffer.byteLength(event.description) - 5);
        const { devices, unaccounted } = decodeDeviceSections(bytes, description, 0);
        assert.deepEqual(unaccounted, []);
        assert.equal(
          devices.reduce((sum, { lengthBytes }) => sum + lengthBytes, 1),
          bytes.length,
        );
        const state = devices.find(({ name }) => name === "globalstate")!.state;
        const run = state.fields.find(({ name }) => name === "runstate")!;
        assert.match(Buffer.from(String(plainValue(run)), "hex").toString(), /^prelaunch\0/);
        fc.assert(
          fc.property(fc.nat(bytes.length - 1), fc.integer({ min: 1, max: 255 }), (at, flip) => {
            bytes[at]! ^= flip;
            const damaged = decodeDeviceSections(bytes, description, 0);
            bytes[at]! ^= flip;
            assert.ok(damaged.unaccounted.every(({ at, lengthBytes }) => at + lengthBytes <= bytes.length));
          }),
        );
      }
    });
});
