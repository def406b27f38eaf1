import assert from "node:assert/strict";
import { emptyVmDescription } from "./main-stream.js";
import { parseVmDescription } from "./vm-description.js";

const device = (members: string) => `{"page_size":4096,"devices":[{"name":"d","instance_id":0,${members}}]}`;

describe("VM description", () => {
  it("may describe no device at all", () => {
    assert.deepEqual(parseVmDescription(emptyVmDescription(4096)), { pageBytes: 4096, devices: [] });
  });

  it("gives an opaque device's size, and instance ids as unsigned numbers", () => {
    const text = '{"page_size":4096,"devices":[{"name":"d","instance_id":-1,"size":7}],"configuration":{}}';
    assert.deepEqual(parseVmDescription(text).devices, [
      { name: "d", instanceId: 0xffffffff, state: { opaqueBytes: 7 } },
    ]);
  });

  for (const [what, text, code, message] of [
    ["text that is no JSON", "{", "DESCRIPTION_SYNTAX", /not JSON/],
    ["a list", "[]", "DESCRIPTION_SHAPE", /an object was due, an array came/],
    ["no page size", '{"devices":[]}', "DESCRIPTION_SHAPE", /page_size: an integer was due, nothing came/],
    ["no devices", '{"page_size":1}', "DESCRIPTION_SHAPE", /devices: an array was due/],
    [
      "a device without a name",
      '{"page_size":1,"devices":[{}]}',
      "DESCRIPTION_SHAPE",
      /devices\[0\]\.name: text was due/,
    ],
    ["a negative size", device('"size":-1'), "DESCRIPTION_SHAPE", /no negative number was due, -1 came/],
    ["a fractional size", device('"size":1.5'), "DESCRIPTION_SHAPE", /an integer was due, 1\.5 came/],
    ["no fields", device('"vmsd_name":"d","version":1'), "DESCRIPTION_SHAPE", /devices\[0\] \(d\)\.fields/],
    [
      "a field without a size",
      device('"vmsd_name":"d","version":1,"fields":[{"name":"f","type":"bool"}]'),
      "DESCRIPTION_SHAPE",
      /fields\[0\] \(f\)\.size/,
    ],
  ] as const)
    it(`refuses ${what}, and says where`, () => {
      assert.throws(() => parseVmDescription(text), { name: "ProtocolError", code, message });
    });

  it("refuses structs nested without end", () => {
    const depth = 5000;
    const open = '"vmsd_name":"d","version":1,"fields":[{"name":"f","type":"struct","size":1,"struct":{';
    const text = device(`${open.repeat(depth)}"vmsd_name":"d","version":1,"fields":[]${"}}]".repeat(depth)}`);
    assert.throws(() => parseVmDescription(text), { code: "DESCRIPTION_TOO_LARGE", message: /deeper than 32/ });
  });
});
