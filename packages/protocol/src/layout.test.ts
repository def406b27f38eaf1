import assert from "node:assert/strict";
import fc from "fast-check";
import { layout } from "./layout.js";
import {
  bits64le,
  bytes,
  cstring,
  reserved,
  u8,
  u16be,
  u16le,
  u32be,
  u32le,
  u64be,
  u64beExact,
  u64le,
} from "./wire-fields.js";

const sample = layout(
  "sample",
  {
    magic: u32be.equals(0xcafe, { code: "SAMPLE_MAGIC", remedy: "send samples" }),
    kind: u8,
    flags: u16be,
    count: u32be,
    total: u64be,
    pad: reserved(3),
    name: cstring(8),
    raw: bytes(4),
  },
  { size: 34 },
);

const values = { kind: 1, flags: 2, count: 3, total: 2 ** 40, name: "abc", raw: Uint8Array.of(9, 8, 7, 6) };

describe("layout", () => {
  it("fails to load when its fields do not add up to the specified size", () => {
    assert.throws(() => layout("short", { a: u32be, b: u8 }, { size: 6 }), /short: fields take 5 bytes.*says 6/);
  });

  it("knows where its fields lie", () => {
    assert.deepEqual([sample.size, sample.offsetOf("magic"), sample.offsetOf("name")], [34, 0, 22]);
  });

  it("decodes what it encodes, for any values that fit", () => {
    const any = fc.record(
      {
        kind: fc.nat({ max: 0xff }),
        flags: fc.nat({ max: 0xffff }),
        count: fc.nat({ max: 0xffffffff }),
        total: fc.maxSafeNat(),
        name: fc.stringMatching(/^[a-zA-Z0-9/@.]{0,7}$/),
        raw: fc.uint8Array({ minLength: 4, maxLength: 4 }),
      },
      { noNullPrototype: true },
    );
    fc.assert(fc.property(any, (value) => assert.deepEqual(sample.decode(sample.encode(value)), value)));
  });

  it("puts the low byte first where a field says so", () => {
    const little = layout("little", { a: u16le, b: u32le, c: u64le, d: bits64le }, { size: 22 });
    const value = { a: 0x0102, b: 0x03040506, c: 0x07_0809_0a0b_0c, d: 0xf1f2_f3f4_f5f6_f7f8n };
    const wire = little.encode(value);
    assert.equal(Buffer.from(wire).toString("hex"), "020106050403" + "0c0b0a0908070000" + "f8f7f6f5f4f3f2f1");
    assert.deepEqual(little.decode(wire), value);
    assert.throws(() => little.decode(wire.fill(0xff)), { code: "WIRE_NUMBER_TOO_LARGE" });
    assert.throws(() => little.encode({ ...value, d: -1n }), RangeError);
  });

  it("writes every one of its bytes, whatever lay there before", () => {
    const dirty = new Uint8Array(40).fill(0xee);
    sample.encodeInto(new DataView(dirty.buffer), 3, values);
    assert.deepEqual(dirty.subarray(3, 37), sample.encode(values));
    assert.deepEqual([dirty[2], dirty[37]], [0xee, 0xee]);
  });

  it("decodes from the middle of a buffer that is itself a part of another", () => {
    const outer = new Uint8Array(50);
    outer.set(sample.encode(values), 9);
    assert.deepEqual(sample.decode(outer.subarray(5), 4), values);
  });

  it("ignores what stands in reserved bytes and behind the end of a text", () => {
    const wire = sample.encode(values);
    wire.fill(0xaa, 19, 22);
    wire.fill(0xaa, 26, 30);
    assert.deepEqual(sample.decode(wire), values);
  });

  it("names the field, what came and what was due when a constant differs", () => {
    const wire = sample.encode(values);
    wire[3] = 0xff;
    assert.throws(() => sample.decode(wire), {
      code: "SAMPLE_MAGIC",
      message: "sample, magic: 0xcaff came, 0xcafe was due; send samples",
    });
  });

  it("refuses a 64-bit number that a number cannot hold, and says it exactly", () => {
    const wire = sample.encode(values);
    wire.set([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe], sample.offsetOf("total"));
    assert.throws(() => sample.decode(wire), { code: "WIRE_NUMBER_TOO_LARGE", message: /0xfffffffffffffffe came/ });
  });

  it("refuses a text without an end", () => {
    const wire = sample.encode(values);
    wire.fill(0x61, 22, 30);
    assert.throws(() => sample.decode(wire), { code: "WIRE_UNTERMINATED" });
  });

  it("refuses a text that is not UTF-8", () => {
    const wire = sample.encode(values);
    wire[22] = 0xff;
    assert.throws(() => sample.decode(wire), { code: "WIRE_TEXT" });
  });

  it("refuses fewer bytes than it has", () => {
    assert.throws(() => sample.decode(new Uint8Array(33)), { code: "WIRE_TRUNCATED" });
    assert.throws(() => sample.decode(new Uint8Array(40), 7), { code: "WIRE_TRUNCATED" });
  });

  it("treats a value that does not fit as a defect of our own", () => {
    assert.throws(() => sample.encode({ ...values, kind: 256 }), RangeError);
    assert.throws(() => sample.encode({ ...values, total: 2 ** 53 }), RangeError);
    assert.throws(() => sample.encode({ ...values, name: "12345678" }), RangeError);
    assert.throws(() => sample.encode({ ...values, raw: new Uint8Array(3) }), RangeError);
  });

  it("keeps any 64-bit number exactly in an exact field, and no other", () => {
    const exact = layout("exact", { value: u64beExact }, { size: 8 });
    const largest = 2n ** 64n - 1n;
    assert.equal(exact.decode(exact.encode({ value: largest })).value, largest);
    for (const value of [-1n, largest + 1n]) assert.throws(() => exact.encode({ value }), RangeError);
  });
});
