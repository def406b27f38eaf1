import assert from "node:assert/strict";
import { emptyVmDescription } from "./main-stream.js";
import { parseVmDescription, type StateDescription } from "./vm-description.js";

const device = (members: string) => `{"page_size":4096,"devices":[{"name":"d","instance_id":0,${members}}]}`;

const details = ["sizes", "parts"] as const;

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
      for (const detail of details)
        assert.throws(() => parseVmDescription(text, detail), { name: "ProtocolError", code, message });
    });

  it("cuts a list's repeated members apart, one part for each element", () => {
    const part = (name: string) => `"vmsd_name":"${name}","version":3,"fields":[]`;
    const more = `"subsections":[{${part("a/more")}}]`;
    const text = device(
      `${part("d").replace("[]", `[{"name":"list","type":"qtailq",${part("a")},${more},${part("b")},"size":9}]`)}`,
    );
    const quick = parseVmDescription(text).devices[0]!.state as StateDescription;
    assert.deepEqual(quick.fields[0]!.parts, []);
    const state = parseVmDescription(text, "parts").devices[0]!.state as StateDescription;
    const list = state.fields[0]!;
    assert.deepEqual(
      list.parts.map(({ name, version, subsections }) => [name, version, subsections.length]),
      [
        ["a", 3, 1],
        ["b", 3, 0],
      ],
    );
    assert.deepEqual([list.elementBytes, list.count, list.struct], [9, 1, null]);
  });

  it("numbers elements that are described one by one, where the text does not", () => {
    const fields = ["", "", ',"array_len":3', ""].map((count) => `{"name":"x","type":"uint8","size":1${count}}`);
    const text = device(`"vmsd_name":"d","version":1,"fields":[${fields},{"name":"y","type":"uint8","size":1}]`);
    const state = parseVmDescription(text).devices[0]!.state as StateDescription;
    assert.deepEqual(
      state.fields.map(({ index }) => index),
      [0, 1, 2, 5, null],
    );
  });

  it("leaves parts out that make no sense, for a list's size is all that its end depends on", () => {
    const list = '{"name":"list","type":"qtailq","vmsd_name":"a","version":-1,"fields":7,"size":9}';
    const text = device(`"vmsd_name":"d","version":1,"fields":[${list}]`);
    const state = parseVmDescription(text, "parts").devices[0]!.state as StateDescription;
    assert.deepEqual(state.fields[0]?.parts, []);
  });

  for (const depth of [40, 5000])
    it(`refuses structs nested ${depth} deep`, () => {
      const open = '"vmsd_name":"d","version":1,"fields":[{"name":"f","type":"struct","size":1,"struct":{';
      const text = device(`${open.repeat(depth)}"vmsd_name":"d","version":1,"fields":[]${"}}]".repeat(depth)}`);
      for (const detail of details)
        assert.throws(() => parseVmDescription(text, detail), {
          code: "DESCRIPTION_TOO_LARGE",
          message: /nested deeper than/,
        });
    });
});
