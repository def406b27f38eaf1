import assert from "node:assert/strict";
import fc from "fast-check";
import {
  decodeMultifdInit,
  encodeMultifdInit,
  formatUuid,
  MULTIFD_INIT_BYTES,
  MULTIFD_MAGIC_BYTES,
  parseUuid,
} from "./multifd-init.js";
import { vector } from "./recorded-vectors.test.js";

const UUID = "01234567-89ab-cdef-0123-456789abcdef";

describe("multifd init message", () => {
  it("decodes what QEMU 7.2 sends without a UUID", () => {
    const init = decodeMultifdInit(vector("qemu-7.2/init-channel-1.bin"));
    assert.deepEqual(init, { uuid: new Uint8Array(16), channel: 1 });
  });

  it("decodes what QEMU 11.1 sends with a UUID", () => {
    const init = decodeMultifdInit(vector("qemu-11.1/init-channel-1-uuid.bin"));
    assert.deepEqual([formatUuid(init.uuid), init.channel], [UUID, 1]);
  });

  it("encodes the very bytes that QEMU sends", () => {
    const recorded = vector("qemu-11.1/init-channel-1-uuid.bin");
    assert.deepEqual(encodeMultifdInit({ uuid: parseUuid(UUID), channel: 1 }), recorded);
    assert.deepEqual([recorded.length, recorded.subarray(0, 4)], [MULTIFD_INIT_BYTES, MULTIFD_MAGIC_BYTES]);
  });

  it("rejects another magic", () => {
    const wire = vector("qemu-7.2/init-channel-1.bin");
    wire[0] = 0x51;
    assert.throws(() => decodeMultifdInit(wire), { name: "ProtocolError", code: "MULTIFD_MAGIC" });
  });

  it("rejects another version", () => {
    const wire = vector("qemu-7.2/init-channel-1.bin");
    wire[7] = 2;
    assert.throws(() => decodeMultifdInit(wire), { code: "MULTIFD_VERSION" });
  });

  it("rejects a message that is cut short", () => {
    assert.throws(() => decodeMultifdInit(new Uint8Array(63)), { code: "WIRE_TRUNCATED" });
  });
});

describe("UUID text", () => {
  it("reads back what it writes", () => {
    const any = fc.uint8Array({ minLength: 16, maxLength: 16 });
    fc.assert(fc.property(any, (uuid) => assert.deepEqual(parseUuid(formatUuid(uuid)), uuid)));
  });

  it("is read in upper case too", () => {
    assert.deepEqual(parseUuid(UUID.toUpperCase()), parseUuid(UUID));
  });

  for (const text of ["", "0123456789abcdef0123456789abcdef", `${UUID}0`, UUID.replace("f", "g")])
    it(`is refused when it reads "${text}"`, () => {
      assert.throws(() => parseUuid(text), { name: "ConfigError", code: "UUID_SYNTAX" });
    });
});
