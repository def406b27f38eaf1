/**
 * vhost-user feature bits: the device's own, and the protocol's.
 *
 * Feature sets are bigints, for bit 63 may be set. Protocol features change
 * payloads and behaviour, so a front-end acknowledges those it implements and no
 * other: bits 17, 18 and 20 up stay untouched, for their meaning has moved between versions.
 * Source: QEMU 11.1, docs/interop/vhost-user.rst, "Protocol features".
 */

/** Device features that concern the transport. Source: virtio 1.3, 6; linux/vhost.h. */
export const deviceFeature = {
  /** Net: the driver announces itself after a migration, when asked. */
  guestAnnounce: 21,
  /** Writes to guest memory are logged. */
  logAll: 26,
  indirectDescriptors: 28,
  eventIndex: 29,
  /** vhost-user's own; never a guest's. */
  protocolFeatures: 30,
  version1: 32,
  packedRing: 34,
} as const;

export const protocolFeature = {
  queues: 0,
  logSharedMemory: 1,
  rarp: 2,
  replyAck: 3,
  backEndRequests: 5,
  pageFault: 8,
  config: 9,
  inflight: 12,
  resetDevice: 13,
  memorySlots: 15,
  status: 16,
  /** What bit 17 was in the proposal of 2023, before it became XEN_MMAP. */
  deviceState2023: 17,
  deviceState: 19,
} as const;

export type ProtocolFeature = keyof typeof protocolFeature;

/** Names for messages and displays, as the specification writes them. */
const names = [
  "MQ",
  "LOG_SHMFD",
  "RARP",
  "REPLY_ACK",
  "MTU",
  "BACKEND_REQ",
  "CROSS_ENDIAN",
  "CRYPTO_SESSION",
  "PAGEFAULT",
  "CONFIG",
  "BACKEND_SEND_FD",
  "HOST_NOTIFIER",
  "INFLIGHT_SHMFD",
  "RESET_DEVICE",
  "INBAND_NOTIFICATIONS",
  "CONFIGURE_MEM_SLOTS",
  "STATUS",
  "XEN_MMAP",
  "SHARED_OBJECT",
  "DEVICE_STATE",
] as const;

/** Protocol features by name; bits without one as numbers. */
export function nameProtocolFeatures(features: bigint): string[] {
  return bitsOf(features).map((bit) => names[bit] ?? `bit ${bit}`);
}

/** The bits that are set, ascending. */
export function bitsOf(features: bigint): number[] {
  const bits: number[] = [];
  for (let bit = 0; bit < 64; bit++) if (hasBit(features, bit)) bits.push(bit);
  return bits;
}

export function hasBit(features: bigint, bit: number): boolean {
  return ((features >> BigInt(bit)) & 1n) === 1n;
}

/** A feature set with exactly these bits. */
export function featureSet(...bits: readonly number[]): bigint {
  return bits.reduce((set, bit) => set | (1n << BigInt(bit)), 0n);
}
