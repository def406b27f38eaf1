import assert from "node:assert/strict";
import type { DecodedDevice, DecodedField, FieldContent, Scalar } from "@multifd/protocol";
import { differences } from "./difference.js";
import { differenceText } from "./difference-text.js";
import type { Inspection } from "./inspection.js";

const place = { at: 0, lengthBytes: 3 };
const field = (name: string, content: FieldContent, index: number | null = null): DecodedField => ({
  name,
  type: "uint8",
  index,
  content,
  ...place,
});
const scalar = (value: Scalar): FieldContent => ({ kind: "scalar", value });
const state = (...fields: DecodedField[]) => ({ name: "s", version: 1, fields, subsections: [], ...place });
const device = (name: string, ...fields: DecodedField[]): DecodedDevice => ({
  name,
  instanceId: 0,
  version: 1,
  sectionId: 1,
  vmsdName: name,
  bytes: new Uint8Array(),
  state: state(...fields),
  ...place,
});
const inspection = (...devices: DecodedDevice[]): Inspection => ({
  path: "file",
  form: "stream",
  fileBytes: 1,
  machineType: "pc",
  pageBytes: 4096,
  capabilities: [],
  uuid: null,
  commands: [],
  flushes: 0,
  blocks: [],
  devices,
  deviceBytes: 1,
  unaccounted: [],
  failure: null,
});
const block = (name: string, lengthBytes: number) => ({
  name,
  lengthBytes,
  from: "file",
  dataPages: 0,
  zeroPages: 0,
  absentPages: 0,
  sample: null,
});
const told = (a: Inspection, b: Inspection) => differenceText(differences(a, b)).trimEnd().split("\n");

describe("difference of two streams", () => {
  it("lies not in section ids, places, or the order of devices", () => {
    const [x, y] = [device("x", field("f", scalar(1))), device("y")];
    const moved = { ...x, at: 99, sectionId: 77 };
    assert.deepEqual(differences(inspection(x, y), inspection(y, moved)), []);
  });

  it("lies in configuration, RAM blocks and their sizes", () => {
    const a = { ...inspection(), uuid: "u", blocks: [block("ram", 4096), block("rom", 4096)] };
    const b = { ...inspection(), capabilities: ["x-ignore-shared"], blocks: [block("rom", 8192)] };
    assert.deepEqual(told(a, b), [
      "capabilities: none → x-ignore-shared",
      "UUID: u → not there",
      "RAM block ram: 4096 bytes → not there",
      "RAM block rom: 4096 bytes → 8192 bytes",
    ]);
  });

  it("lies in devices that one side lacks, their versions, and their fields", () => {
    const a = inspection(
      device("x", field("same", scalar(1)), field("f", scalar(1)), field("gone", scalar(2))),
      device("y"),
    );
    const b = inspection(
      { ...device("x", field("same", scalar(1)), field("f", scalar(2n ** 60n))), version: 2 },
      device("z"),
    );
    assert.deepEqual(told(a, b), [
      "version x: 1 → 2",
      "x",
      "  f: 1 → 1152921504606846976 (0x1000000000000000)",
      "  gone: 2 → not there",
      "device y: 3 bytes → not there",
      "device z: not there → 3 bytes",
    ]);
  });

  it("tells where arrays and buffers differ, not all that they hold", () => {
    const array = (values: Scalar[]): FieldContent => ({ kind: "scalars", values });
    const buffer = (...bytes: number[]): FieldContent => ({ kind: "bytes", bytes: Uint8Array.from(bytes), note: null });
    const many = Array.from({ length: 10 }, (_, i) => i);
    const a = inspection(
      device("x", field("array", array([1, 2, 3])), field("rom", buffer(1, 0xab)), field("all", array(many))),
    );
    const b = inspection(
      device(
        "x",
        field("array", array([1, 7, 3])),
        field("rom", buffer(1, 0xcd)),
        field("all", array([...many].reverse())),
      ),
    );
    assert.deepEqual(told(a, b), [
      "x",
      "  array: [1] 2 → 7",
      "  rom: [1] ab → cd",
      "  all: [0] 0 → 9, [1] 1 → 8, [2] 2 → 7, [3] 3 → 6, … 6 more of 10",
    ]);
  });

  it("pairs an array of structs with the same elements described one by one", () => {
    const part = (value: number) => state(field("v", scalar(value)));
    const together = field("part", { kind: "states", states: [part(1), part(2), part(3)] });
    const apart = [1, 5].map((value, i) => field("part", { kind: "state", state: part(value) }, i));
    assert.deepEqual(told(inspection(device("x", together)), inspection(device("x", ...apart))), [
      "x",
      "  part[1] › v: 2 → 5",
      "  part[2]: uint8, 3 bytes → not there",
    ]);
  });

  it("pairs a tree's elements by their keys", () => {
    const entry = (key: Scalar, value: number) => ({ key, value: state(field("v", scalar(value))) });
    const tree = (...entries: ReturnType<typeof entry>[]) => field("t", { kind: "entries", entries });
    const a = inspection(device("x", tree(entry(4, 1), entry(9, 1))));
    const b = inspection(device("x", tree(entry(9, 2), entry(4, 1))));
    assert.deepEqual(told(a, b), ["x", "  t[9] › v: 1 → 2"]);
  });
});
