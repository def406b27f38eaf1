import assert from "node:assert/strict";
import type { DecodedDevice, DecodedField, DecodedState } from "@multifd/protocol";
import { deviceLines } from "./device-text.js";

const scalar = (name: string, at: number, value: number): DecodedField => ({
  name,
  type: "uint8",
  index: null,
  at,
  lengthBytes: 1,
  content: { kind: "scalar", value },
});
const state = (name: string, at: number, lengthBytes: number, fields: DecodedField[]): DecodedState => ({
  name,
  version: 1,
  at,
  lengthBytes,
  fields,
  subsections: [],
});

/** Places count from 100; elements 1 and 2 of `parts` have the same bytes. */
function device(): DecodedDevice {
  const bytes = Uint8Array.of(7, 1, 2, 2, 5, 6, 8);
  const parts = [1, 2, 3].map((i) => state("part", 100 + i, 1, [scalar("x", 100 + i, bytes[i]!)]));
  const entry = { key: 2n ** 63n, value: state("value", 105, 1, [scalar("v", 105, 6)]) };
  const fields: DecodedField[] = [
    scalar("first", 100, 7),
    { name: "parts", type: "struct", index: null, at: 101, lengthBytes: 3, content: { kind: "states", states: parts } },
    {
      name: "one",
      type: "struct",
      index: 4,
      at: 104,
      lengthBytes: 1,
      content: { kind: "state", state: state("single", 104, 1, [scalar("y", 104, 5)]) },
    },
    {
      name: "tree",
      type: "gtree",
      index: null,
      at: 105,
      lengthBytes: 1,
      content: { kind: "entries", entries: [entry] },
    },
  ];
  const own = { ...state("dev", 100, 7, fields), subsections: [state("dev/more", 106, 1, [scalar("z", 106, 8)])] };
  const place = { at: 85, lengthBytes: 27 };
  return { name: "dev", instanceId: 1, version: 3, sectionId: 9, vmsdName: "dev", bytes, state: own, ...place };
}

describe("device text", () => {
  it("is a tree: a line for each field, elements alike told once, subsections marked", () => {
    assert.deepEqual(deviceLines(device(), 9), [
      "dev  instance 1, version 3, 27 bytes at 0x55",
      "  first   7",
      "  parts   [3] struct",
      "    [0]",
      "      x  1",
      "    [1…2], all alike",
      "      x  2",
      "  one[4]  single  version 1, 1 bytes",
      "    y  5",
      "  tree    [1] gtree",
      "    key 9223372036854775808 (0x8000000000000000)",
      "    value",
      "      v  6",
      "  + dev/more  version 1",
      "    z  8",
    ]);
  });

  it("ends at the depth that was asked for", () => {
    assert.deepEqual(deviceLines(device(), 1).slice(1), [
      "  first   7",
      "  parts   [3] struct",
      "  one[4]  single  version 1, 1 bytes",
      "  tree    [1] gtree",
      "  + dev/more  version 1",
    ]);
    assert.equal(deviceLines(device(), 0).length, 1);
  });

  it("tells neighbours of an array once where they have the same bytes, and others by themselves", () => {
    const bytes = Uint8Array.of(4, 4, 4, 5, 4, 4);
    const slot = (i: number): DecodedField => ({
      name: "slot",
      type: "struct",
      index: i,
      at: i,
      lengthBytes: 1,
      content: { kind: "state", state: state("slot", i, 1, [scalar("up", i, bytes[i]!)]) },
    });
    const fields = [...[0, 1, 2, 3, 4].map(slot), { ...scalar("last", 5, 4), index: 5 }];
    const own = state("hotplug", 0, 6, fields);
    const whole = { ...device(), bytes, state: own };
    assert.deepEqual(deviceLines(whole, 9).slice(1), [
      "  slot[0…2]  slot  version 1, 1 bytes",
      "    up  4",
      "  slot[3]    slot  version 1, 1 bytes",
      "    up  5",
      "  slot[4]    slot  version 1, 1 bytes",
      "    up  4",
      "  last[5]    4",
    ]);
  });
});
