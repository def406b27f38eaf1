/**
 * Device-state packet: a device's own state on a multifd channel, beside the RAM packets.
 *
 * Sources from 10.0 on send them, for VFIO devices and only without
 * compression. They start like a RAM packet and differ from byte 12 on, so a
 * receiver reads 12 bytes, looks at the flags, and then knows how many more
 * there are. They carry no number and no SYNC covers them.
 *
 * Source: QEMU 10.2, migration/multifd.h, MultiFDPacketDeviceState_t.
 */

import { ProtocolError } from "./errors.js";
import { layout, type ValuesOf } from "./layout.js";
import { MULTIFD_MAGIC, MULTIFD_VERSION, WRONG_MAGIC, WRONG_VERSION } from "./multifd-init.js";
import { PACKET_DEVICE_STATE, PACKET_SYNC } from "./packet-flags.js";
import { cstring, u32be } from "./wire-fields.js";

/** What all multifd packets start with: read this, then decide which header it is. */
const packetPrologue = layout(
  "multifd packet",
  {
    magic: u32be.equals(MULTIFD_MAGIC, WRONG_MAGIC),
    version: u32be.equals(MULTIFD_VERSION, WRONG_VERSION),
    flags: u32be,
  },
  { size: 12 },
);

export const PACKET_PROLOGUE_BYTES = packetPrologue.size;

/** Header of a device-state packet; `payloadBytes` bytes for the device's loader follow. */
const deviceStatePacket = layout(
  "multifd device-state packet",
  {
    magic: u32be.equals(MULTIFD_MAGIC, WRONG_MAGIC),
    version: u32be.equals(MULTIFD_VERSION, WRONG_VERSION),
    flags: u32be,
    device: cstring(256), // wire: idstr, the name of the device's section
    instanceId: u32be,
    payloadBytes: u32be, // wire: next_packet_size
  },
  { size: 276 },
);

export const DEVICE_STATE_PACKET_BYTES = deviceStatePacket.size;

export type DeviceStatePacket = ValuesOf<typeof deviceStatePacket.fields>;

/** @throws {ProtocolError} MULTIFD_MAGIC, MULTIFD_VERSION or WIRE_TRUNCATED. */
export function decodePacketFlags(view: DataView, at: number): number {
  return packetPrologue.decode(view, at).flags;
}

export function encodeDeviceStatePacket(packet: Omit<DeviceStatePacket, "flags">): Uint8Array<ArrayBuffer> {
  return deviceStatePacket.encode({ ...packet, flags: PACKET_DEVICE_STATE });
}

/**
 * Reads a device-state packet's header; checks form only.
 *
 * @throws {ProtocolError} MULTIFD_MAGIC, MULTIFD_VERSION, WIRE_TRUNCATED, WIRE_UNTERMINATED or WIRE_TEXT.
 */
export function decodeDeviceStatePacket(view: DataView, at: number): DeviceStatePacket {
  return deviceStatePacket.decode(view, at);
}

/**
 * Checks a device-state packet before anything is allocated for it.
 *
 * @param payloadBytesMax  The caller's own limit; the protocol has none.
 * @throws {ProtocolError} MULTIFD_DEVICE_STATE_FLAGS, MULTIFD_DEVICE_STATE_EMPTY or MULTIFD_DEVICE_STATE_SIZE.
 */
export function checkDeviceStatePacket(packet: DeviceStatePacket, payloadBytesMax: number): void {
  const { device, instanceId, flags, payloadBytes } = packet;
  const where = `device-state packet for "${device}" instance ${instanceId}`;
  if (flags !== PACKET_DEVICE_STATE) {
    const what = flags & PACKET_SYNC ? "SYNC is set" : "no other flag may be set";
    const message = `${where}: flags 0x${flags.toString(16)} came, 0x${PACKET_DEVICE_STATE.toString(16)} was due (${what}); the stream is damaged`;
    throw new ProtocolError("MULTIFD_DEVICE_STATE_FLAGS", message);
  }
  if (payloadBytes === 0) {
    const message = `${where}: it announces no payload, and empty ones are not allowed; the source is broken`;
    throw new ProtocolError("MULTIFD_DEVICE_STATE_EMPTY", message);
  }
  if (payloadBytes > payloadBytesMax) {
    const message = `${where}: it announces ${payloadBytes} payload bytes, at most ${payloadBytesMax} are taken; raise the limit if the device is that large`;
    throw new ProtocolError("MULTIFD_DEVICE_STATE_SIZE", message);
  }
}
