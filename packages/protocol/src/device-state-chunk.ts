/**
 * Device-state chunk: what stands ahead of a device's bytes in each of its packets, so that they can be put in order again.
 *
 * The packets of one device go down all channels at once and arrive in any order.
 * So each bears its index, from 0 on, and the last says that it is the last; where
 * the bytes are cut means nothing. It is the form that QEMU's own device with such
 * packets (VFIO) gives them, whose last chunk holds the device's configuration.
 *
 * Source: QEMU 10.2, hw/vfio/migration-multifd.c, VFIODeviceStatePacket.
 */
import { ProtocolError } from "./errors.js";
import { layout } from "./layout.js";
import { u32be } from "./wire-fields.js";

const chunkHead = layout(
  "device-state chunk",
  {
    version: u32be.equals(0, { code: "DEVICE_STATE_VERSION", remedy: "use the same version on both sides" }),
    index: u32be, // wire: idx
    flags: u32be,
  },
  { size: 12 },
);

export const DEVICE_STATE_CHUNK_BYTES = chunkHead.size;

/** The state ends with this chunk; wire: VFIO_DEVICE_STATE_CONFIG_STATE. */
const CHUNK_LAST = 1;

export type DeviceStateChunk = {
  readonly index: number;
  readonly isLast: boolean;
  /** May be empty. Shares its memory with the packet. */
  readonly bytes: Uint8Array;
};

/** What goes ahead of a chunk's bytes. */
export function encodeChunkHead(index: number, isLast: boolean): Uint8Array<ArrayBuffer> {
  return chunkHead.encode({ index, flags: isLast ? CHUNK_LAST : 0 });
}

/**
 * Reads a device-state packet's payload.
 *
 * @throws {ProtocolError} WIRE_TRUNCATED, DEVICE_STATE_VERSION, DEVICE_STATE_FLAGS.
 */
export function decodeChunk(payload: Uint8Array): DeviceStateChunk {
  const { index, flags } = chunkHead.decode(payload);
  if ((flags & ~CHUNK_LAST) !== 0) {
    throw new ProtocolError(
      "DEVICE_STATE_FLAGS",
      `device-state chunk ${index}: flags 0x${flags.toString(16)} came, 0 or ${CHUNK_LAST} was due; the stream is damaged or its source newer than this`,
    );
  }
  return { index, isLast: flags === CHUNK_LAST, bytes: payload.subarray(chunkHead.size) };
}
