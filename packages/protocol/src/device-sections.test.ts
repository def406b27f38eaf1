import assert from "node:assert/strict";
import { ByteWriter } from "./byte-writer.js";
import { walkDeviceSections } from "./device-sections.js";
import { parseVmDescription } from "./vm-description.js";

/** One device with every shape of field: an array, an array of structs, a list with repeated keys, subsections. */
const DESCRIPTION = `{"page_size": 4096, "devices": [
  {"name": "dev", "instance_id": -1, "vmsd_name": "dev", "version": 2,
   "fields": [
     {"name": "words", "array_len": 3, "type": "uint16", "size": 2},
     {"name": "parts", "array_len": 2, "type": "struct", "size": 5, "struct":
       {"vmsd_name": "part", "version": 1, "fields": [{"name": "on", "type": "bool", "size": 1},
                                                      {"name": "n", "type": "uint32", "size": 4}]}},
     {"name": "list", "type": "qtailq", "vmsd_name": "a", "version": 1, "fields": [], "vmsd_name": "b", "fields": [], "size": 3}],
   "subsections": [{"vmsd_name": "dev/more", "version": 7, "fields": [{"name": "x", "type": "uint8", "size": 1}]}]},
  {"name": "old", "instance_id": 0, "size": 2, "fields": [{"name": "data", "size": 2, "type": "buffer"}]}]}`;

function deviceBytes(): Uint8Array {
  const dev = new ByteWriter().u8(4).u32(9).name("dev").u32(0xffffffff).u32(2);
  dev
    .bytes(new Uint8Array(6))
    .bytes(new Uint8Array(10))
    .bytes(Uint8Array.of(1, 8, 0));
  dev.u8(5).name("dev/more").u32(7).u8(3).u8(0x7e).u32(9);
  const old = new ByteWriter().u8(4).u32(10).name("old").u32(0).u32(1).u16(7).u8(0x7e).u32(10);
  return dev.bytes(old.finish()).u8(0).u32(0xdeadbeef).finish();
}

describe("walk over device sections", () => {
  it("accounts for every byte up to the end of the stream", () => {
    const { sections, end } = walkDeviceSections(deviceBytes(), parseVmDescription(DESCRIPTION));
    assert.deepEqual(sections, [
      { name: "dev", instanceId: 0xffffffff, version: 2, sectionId: 9, at: 0, lengthBytes: 56 },
      { name: "old", instanceId: 0, version: 1, sectionId: 10, at: 56, lengthBytes: 24 },
    ]);
    assert.equal(end, 80);
  });

  it("refuses bytes that end before the description does, wherever they end", () => {
    const description = parseVmDescription(DESCRIPTION);
    for (let cut = 0; cut <= 80; cut++)
      assert.throws(() => walkDeviceSections(deviceBytes().subarray(0, cut), description), { code: "DEVICE_SECTION" });
  });

  for (const [what, at, message] of [
    ["another section type", 0, /byte 0, section "dev": 0x5 came, 0x4 was due/],
    ["another name", 6, /section "dev": the name "eev" came, "dev" was due/],
    ["another instance", 12, /instance 4294967294 came/],
    ["another version", 16, /version 3 came, 2 was due/],
    ["a missing subsection", 36, /subsection "dev\/more": 0x4 came, 0x5 was due/],
    ["another subsection", 38, /the name "eev\/more" came/],
    ["another version of a subsection", 49, /subsection "dev\/more": version 6 came, 7 was due/],
    ["another footer", 51, /footer: 0x7f came, 0x7e was due/],
    ["a footer of another section", 55, /footer: section id 8 came, 9 was due/],
    ["something behind the last section", 80, /after the last device section: 0x1 came, 0x0 was due/],
  ] as const)
    it(`refuses ${what} and names the byte`, () => {
      const bytes = deviceBytes();
      bytes[at] = bytes[at]! ^ 1;
      const walk = () => walkDeviceSections(bytes, parseVmDescription(DESCRIPTION));
      assert.throws(walk, { name: "ProtocolError", code: "DEVICE_SECTION", message });
    });

  it("refuses a struct whose parts do not add up to its size", () => {
    const description = parseVmDescription(DESCRIPTION.replace('"struct", "size": 5', '"struct", "size": 6'));
    assert.throws(() => walkDeviceSections(deviceBytes(), description), {
      code: "DEVICE_SECTION",
      message: /field "parts": its parts take 5 bytes, 6 were due/,
    });
  });

  it("is not kept busy by a huge count of empty elements", () => {
    const empty =
      '{"name":"e","array_len":9007199254740991,"type":"struct","size":0,"struct":{"vmsd_name":"e","version":0,"fields":[]}}';
    const text = `{"page_size":1,"devices":[{"name":"d","instance_id":0,"vmsd_name":"d","version":0,"fields":[${empty}]}]}`;
    const bytes = new ByteWriter().u8(4).u32(1).name("d").u32(0).u32(0).u8(0x7e).u32(1).u8(0).finish();
    assert.equal(walkDeviceSections(bytes, parseVmDescription(text)).end, bytes.length - 1);
  });
});
