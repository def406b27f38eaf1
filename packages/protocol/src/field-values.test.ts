import assert from "node:assert/strict";
import { readCapability, readScalars, scalarBytes } from "./field-values.js";

const bytes = (hex: string) => Uint8Array.from(Buffer.from(hex, "hex"));

describe("field values", () => {
  for (const [type, hex, value] of [
    ["bool", "01", true],
    ["bool", "00", false],
    ["bool", "07", 7],
    ["uint8", "ff", 255],
    ["int8", "ff", -1],
    ["uint16", "8001", 0x8001],
    ["uint16 equal", "0001", 1],
    ["int16", "8001", -32767],
    ["uint32", "80000001", 0x80000001],
    ["int32", "fffffffe", -2],
    ["int32 le", "00000003", 3],
    ["uint64", "001fffffffffffff", Number.MAX_SAFE_INTEGER],
    ["uint64", "0020000000000001", 2n ** 53n + 1n],
    ["int64 equal", "ffffffffffffffff", 2n ** 64n - 1n],
    ["int64", "8000000000000000", -(2n ** 63n)],
    ["int64", "fffffffffffffffe", -2],
    ["timer", "ffffffffffffffff", -1],
    ["float64", "3ff8000000000000", 1.5],
    ["CPU_Double_U", "c000000000000000", -2],
    ["float64", "7ff8000000000001", "NaN (0x7ff8000000000001)"],
    ["float64", "fff0000000000000", "-Infinity (0xfff0000000000000)"],
    ["nullptr", "30", null],
    ["nullptr", "31", 0x31],
  ] as const)
    it(`reads ${hex} as ${type} ${value}`, () => {
      assert.equal(scalarBytes(type), hex.length / 2);
      assert.deepEqual(readScalars(type, bytes(hex), 1), [value]);
    });

  it("reads an array in order", () => {
    assert.deepEqual(readScalars("uint16", bytes("000100020003"), 3), [1, 2, 3]);
  });

  it("knows no size of buffers, bitmaps, lists and types that only a device understands", () => {
    for (const type of [
      "buffer",
      "unused_buffer",
      "bitmap",
      "struct",
      "qtailq",
      "fd",
      "virtio",
      "pci config",
      "toString",
    ])
      assert.equal(scalarBytes(type), null);
  });

  it("reads a capability's name, and nothing that is not one", () => {
    assert.equal(readCapability("capability", bytes("03616263")), "abc");
    for (const hex of ["", "02616263", "0301ff00"]) assert.equal(readCapability("capability", bytes(hex)), null);
    assert.equal(readCapability("buffer", bytes("03616263")), null);
  });
});
