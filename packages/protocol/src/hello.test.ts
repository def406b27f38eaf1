import assert from "node:assert/strict";
import fc from "fast-check";
import { Packr } from "msgpackr";
import { decodeHello, encodeHello, HELLO_BYTES_MAX } from "./hello.js";
import type { PacketMethod } from "./packet-flags.js";

const packr = new Packr({ useRecords: false });

/** A hello of this content, its head honest. */
function helloWith(content: Uint8Array): Uint8Array {
  return Buffer.concat([Buffer.from("4d4644480001", "hex"), content]);
}

const mapOf = (value: unknown) => helloWith(packr.pack(value));

describe("hello", () => {
  it("is a magic number, a version, and a map", () => {
    const hello = encodeHello({ methods: ["none", "lz4"] });
    assert.equal(Buffer.from(hello).toString("hex"), "4d4644480001de0001a76d6574686f647392a46e6f6e65a36c7a34");
    assert.deepEqual(decodeHello(hello), { methods: ["none", "lz4"] });
    assert.ok(encodeHello({ methods: ["none", "zlib", "zstd", "lz4"] }).length < HELLO_BYTES_MAX);
  });

  it("comes back as it was said, whatever the methods", () => {
    const methods: PacketMethod[] = ["none", "zlib", "zstd", "lz4"];
    fc.assert(
      fc.property(fc.subarray(methods), (some) => {
        assert.deepEqual(decodeHello(encodeHello({ methods: some })), { methods: some });
      }),
    );
  });

  it("passes over keys and methods of a later version", () => {
    const hello = mapOf({
      checksums: ["crc32c"],
      methods: ["lz4", "lz5", "none"],
      resume: true,
      level: 70000,
      nothing: null,
    });
    assert.deepEqual(decodeHello(hello), { methods: ["none", "lz4"] });
  });

  it("refuses another magic number, another version, and less than either", () => {
    const hello = Buffer.from(encodeHello({ methods: ["none"] }));
    assert.throws(() => decodeHello(Buffer.concat([Uint8Array.of(1), hello.subarray(1)])), { code: "HELLO_MAGIC" });
    const later = Buffer.from(hello);
    later.writeUInt16BE(2, 4);
    assert.throws(() => decodeHello(later), { code: "HELLO_VERSION", message: /same release of multifd/ });
    assert.throws(() => decodeHello(hello.subarray(0, 5)), { code: "WIRE_TRUNCATED" });
  });

  for (const [what, content] of [
    ["nothing", Uint8Array.of()],
    ["a number for a map", packr.pack(5)],
    ["a list for a map", packr.pack([["methods", ["none"]]])],
    ["no methods", packr.pack({ method: "none" })],
    ["methods that are no list", packr.pack({ methods: "none" })],
    ["a method that is no text", packr.pack({ methods: ["none", 7] })],
    ["more methods than there can be", packr.pack({ methods: Array.from({ length: 33 }, (_, i) => `m${i}`) })],
    ["a list that claims more members than bytes follow", Buffer.from("81a76d6574686f6473dcffff", "hex")],
    ["a list with a 32-bit length", Buffer.from("81a76d6574686f6473ddffffffff", "hex")],
    ["a map that claims more members than bytes follow", Buffer.from("deffff", "hex")],
    ["a text that is cut", Buffer.from("81a76d6574", "hex")],
    ["a key that is no text", Buffer.from("8101a0", "hex")],
    ["a key that builds a list", Buffer.from("8191a0a0", "hex")],
    ["an extension type", Buffer.from("81a76d6574686f647391d40001", "hex")],
    ["a fraction", packr.pack({ methods: ["none"], level: 1.5 })],
    ["a deep nest", Buffer.from(`81a161${"91".repeat(40)}c0`, "hex")],
    ["bytes behind the map", Buffer.concat([packr.pack({ methods: ["none"] }), Uint8Array.of(0)])],
  ] as const) {
    it(`refuses ${what}`, () => {
      assert.throws(() => decodeHello(helloWith(content)), { code: "HELLO_FORM", message: /^hello: / });
    });
  }

  it("takes no key for a property that every object has", () => {
    const hello = helloWith(Buffer.from("81a95f5f70726f746f5f5f81a76d6574686f647391a46e6f6e65", "hex"));
    assert.throws(() => decodeHello(hello), { code: "HELLO_FORM" });
  });

  it("answers any bytes with a hello or a refusal, at no cost beyond their number", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
        try {
          assert.ok(Array.isArray(decodeHello(helloWith(bytes)).methods));
        } catch (error) {
          assert.match((error as { code: string }).code, /^HELLO_FORM$/);
        }
      }),
      { numRuns: 2000 },
    );
  });
});
