import assert from "node:assert/strict";
import fc from "fast-check";
import {
  checkDeviceStatePacket,
  DEVICE_STATE_PACKET_BYTES,
  decodeDeviceStatePacket,
  decodePacketFlags,
  encodeDeviceStatePacket,
} from "./device-state-packet.js";
import { viewOf } from "./layout.js";
import { PACKET_DEVICE_STATE } from "./packet-flags.js";

const packet = { flags: PACKET_DEVICE_STATE, device: "0000:00:02.0/vfio", instanceId: 0, payloadBytes: 5 };

describe("device-state packet", () => {
  it("lays its fields out where the specification says", () => {
    const wire = encodeDeviceStatePacket({ device: "d", instanceId: 0x01020304, payloadBytes: 0x05060708 });
    const due = new Uint8Array(276);
    due.set([0x11, 0x22, 0x33, 0x44, 0, 0, 0, 1, 0, 0, 0, 64, 0x64]);
    due.set([1, 2, 3, 4, 5, 6, 7, 8], 268);
    assert.deepEqual(wire, due);
  });

  it("decodes what it encodes", () => {
    const any = fc.record(
      {
        device: fc.stringMatching(/^[a-z0-9/:.]{0,255}$/),
        instanceId: fc.nat({ max: 0xffffffff }),
        payloadBytes: fc.nat({ max: 0xffffffff }),
      },
      { noNullPrototype: true },
    );
    fc.assert(
      fc.property(any, (fields) => {
        const wire = encodeDeviceStatePacket(fields);
        assert.equal(wire.length, DEVICE_STATE_PACKET_BYTES);
        assert.deepEqual(decodeDeviceStatePacket(viewOf(wire), 0), { ...fields, flags: PACKET_DEVICE_STATE });
      }),
    );
  });

  it("is told from a RAM packet by its first twelve bytes", () => {
    const wire = encodeDeviceStatePacket(packet).slice(0, 12);
    assert.equal(decodePacketFlags(viewOf(wire), 0), PACKET_DEVICE_STATE);
    wire[0] = 0;
    assert.throws(() => decodePacketFlags(viewOf(wire), 0), { code: "MULTIFD_MAGIC" });
  });

  it("passes up to the caller's limit", () => {
    checkDeviceStatePacket(packet, 5);
  });

  it("rejects an empty payload", () => {
    const code = "MULTIFD_DEVICE_STATE_EMPTY";
    assert.throws(() => checkDeviceStatePacket({ ...packet, payloadBytes: 0 }, 5), { code });
  });

  it("rejects a payload past the caller's limit, and names the device", () => {
    assert.throws(() => checkDeviceStatePacket({ ...packet, payloadBytes: 6 }, 5), {
      code: "MULTIFD_DEVICE_STATE_SIZE",
      message: /"0000:00:02.0\/vfio" instance 0: it announces 6 payload bytes, at most 5/,
    });
  });

  it("rejects SYNC and every method", () => {
    for (const flags of [65, 66, 68])
      assert.throws(() => checkDeviceStatePacket({ ...packet, flags }, 5), { code: "MULTIFD_DEVICE_STATE_FLAGS" });
  });

  it("rejects a device's name without an end", () => {
    const wire = encodeDeviceStatePacket(packet);
    wire.fill(0x61, 12, 268);
    assert.throws(() => decodeDeviceStatePacket(viewOf(wire), 0), { code: "WIRE_UNTERMINATED" });
  });
});
