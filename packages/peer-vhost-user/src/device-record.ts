/**
 * Device record: what a back-end's state needs beside it to go on elsewhere.
 *
 * A back-end's own state is opaque and knows nothing of rings. So the record
 * bears, ahead of that state, the features agreed on and every ring with its base;
 * the destination starts its back-end from that. This is what travels in a device's
 * device-state packets; it is nobody's format but ours.
 */
import { bits64le, layout, ProtocolError, u32le, u64le } from "@multifd/protocol";
import type { AttachedDevice, Ring } from "./attached-device.js";

const recordHead = layout(
  "vhost-user device record",
  {
    magic: u32le.equals(0x5556_464d, { code: "VHOST_RECORD", remedy: "is this another device's state?" }), // "MFVU"
    version: u32le.equals(1, { code: "VHOST_RECORD", remedy: "use the same version on both sides" }),
    features: bits64le,
    protocolFeatures: bits64le,
    rings: u32le,
  },
  { size: 28 },
);

const recordRing = layout(
  "vhost-user device record, ring",
  { index: u32le, size: u32le, base: u32le, descriptors: u64le, available: u64le, used: u64le },
  { size: 36 },
);

const RINGS_MAX = 256;

export type DeviceRecord = {
  readonly features: bigint;
  readonly protocolFeatures: bigint;
  readonly rings: readonly Ring[];
  readonly bases: readonly number[];
  /** The back-end's own; empty for one that has none. To be read once. */
  readonly state: AsyncIterable<Uint8Array>;
};

/** Under what a device's record travels. */
export function recordName(device: string): string {
  return `vhost-user/${device}`;
}

/** The record's bytes ahead of the state. The device must be suspended. */
export function encodeRecordHead(device: AttachedDevice): Uint8Array {
  const { features, rings } = device.guest;
  const { protocolFeatures } = device.frontEnd;
  const head = new Uint8Array(recordHead.size + rings.length * recordRing.size);
  head.set(recordHead.encode({ features, protocolFeatures, rings: rings.length }));
  for (const [at, ring] of rings.entries()) {
    head.set(recordRing.encode({ ...ring, base: device.bases[at]! }), recordHead.size + at * recordRing.size);
  }
  return head;
}

/**
 * Reads a record up to the back-end's own state.
 *
 * @throws {ProtocolError} VHOST_RECORD, WIRE_TRUNCATED; and what `record` throws.
 */
export async function openRecord(record: AsyncIterable<Uint8Array>): Promise<DeviceRecord> {
  const pieces = record[Symbol.asyncIterator]();
  let read: Uint8Array = new Uint8Array(0);
  const readUpTo = async (bytes: number) => {
    while (read.length < bytes) {
      const next = await pieces.next();
      if (next.done) return;
      read = Buffer.concat([read, next.value]);
    }
  };
  await readUpTo(recordHead.size);
  const { features, protocolFeatures, rings: count } = recordHead.decode(read);
  if (count > RINGS_MAX) {
    throw new ProtocolError("VHOST_RECORD", `a vhost-user device record tells of ${count} rings, at most ${RINGS_MAX}`);
  }
  const headBytes = recordHead.size + count * recordRing.size;
  await readUpTo(headBytes);
  const decoded = Array.from({ length: count }, (_, at) =>
    recordRing.decode(read, recordHead.size + at * recordRing.size),
  );
  return {
    features,
    protocolFeatures,
    rings: decoded.map(({ base: _, ...ring }) => ring),
    bases: decoded.map(({ base }) => base),
    state: restOf(read.subarray(headBytes), pieces),
  };
}

async function* restOf(first: Uint8Array, pieces: AsyncIterator<Uint8Array>): AsyncGenerator<Uint8Array, void> {
  if (first.length > 0) yield first;
  for (let next = await pieces.next(); !next.done; next = await pieces.next()) yield next.value;
}
