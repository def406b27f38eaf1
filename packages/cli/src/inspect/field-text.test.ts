import assert from "node:assert/strict";
import { bytesText, contentText, scalarText } from "./field-text.js";

describe("field text", () => {
  for (const [type, value, text] of [
    ["uint8", 9, "9"],
    ["uint16", 1500, "1500 (0x5dc)"],
    ["uint64", 2n ** 64n - 1n, "18446744073709551615 (0xffffffffffffffff)"],
    ["int32", 1500, "1500"],
    ["int64", -(2n ** 63n), "-9223372036854775808"],
    ["bool", true, "true"],
    ["timer", -1, "not set"],
    ["timer", 25, "25 ns"],
    ["nullptr", null, "none"],
    ["float64", 1.5, "1.5"],
    ["capability", "x-ignore-shared", '"x-ignore-shared"'],
  ] as const)
    it(`tells ${type} ${value} as ${text}`, () => {
      assert.equal(scalarText(type, value), text);
    });

  it("tells equal neighbours once, and no more than eight runs", () => {
    const told = (values: readonly number[]) => contentText("uint32", { kind: "scalars", values });
    assert.equal(told([0, 0, 0, 255, 7]), "[5] 0 ×3, 0xff, 7");
    assert.equal(told(Array.from({ length: 12 }, (_, i) => i % 10)), "[12] 0, 1, 2, 3, 4, 5, 6, 7, … 4 more");
  });

  for (const [what, bytes, text] of [
    ["text that zeros end", Buffer.from("running\0\0\0"), '"running" (10 bytes)'],
    ["text alone", Buffer.from("pc-1"), '"pc-1" (4 bytes)'],
    ["short bytes", Uint8Array.of(0x86, 0x80, 0x0e, 0x10, 3), "86800e10 03"],
    ["zeros", new Uint8Array(256), "256 bytes, all zero"],
    ["nothing", new Uint8Array(0), "empty"],
    ["text with something behind it", Uint8Array.of(97, 98, 99, 0, 1), "61626300 01"],
  ] as const)
    it(`tells ${what} as ${text}`, () => {
      assert.equal(bytesText(bytes), text);
    });

  it("tells long buffers by their beginning, and why a list could not be read", () => {
    assert.equal(bytesText(new Uint8Array(40).fill(0xab)), `40 bytes: ${"abababab ".repeat(8)}…`);
    const bytes = Uint8Array.of(1, 9);
    assert.equal(contentText("qtailq", { kind: "bytes", bytes, note: "a mark was due" }), "0109 (a mark was due)");
  });
});
