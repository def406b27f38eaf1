/**
 * Rings: where each queue of a device keeps its rings, and how far it has got.
 *
 * A device saves a queue in up to four places: size and descriptor table with
 * the core, ring addresses and packed indexes in subsections, and what the
 * guest wrote into the modern PCI interface beside them. This brings together what
 * a destination runs with. A guest without VERSION_1 has its rings behind the
 * descriptor table, the used ring on the next page.
 *
 * Source: QEMU 10.2, hw/virtio/virtio.c, virtio_load(), virtio_queue_update_rings(); virtio 1.3, 2.7.
 */

import { FEATURE_RING_PACKED, FEATURE_VERSION_1, guestFeatures } from "./feature-names.js";
import type { VirtioDevice } from "./virtio-device.js";
import type { PackedQueue } from "./virtio-subsections.js";

export type Ring = {
  /** Number of the queue. */
  readonly queue: number;
  /** Descriptors. */
  readonly size: number;
  readonly vector: number | null;
  /** Next entry that the device takes, modulo 2^16. */
  readonly lastAvailableIndex: number;
  /** Guest addresses and what lies there; null of a queue that the guest has not set up. */
  readonly memory: RingMemory | null;
  /** Indexes of a packed ring, which memory does not tell; null of a split ring. */
  readonly packed: PackedQueue | null;
};

export type RingMemory = {
  readonly descriptors: RingArea;
  /** Split: the available ring; packed: what the guest tells the device. */
  readonly available: RingArea;
  /** Split: the used ring; packed: what the device tells the guest. */
  readonly used: RingArea;
};

export type RingArea = { readonly address: bigint; readonly bytes: bigint };

const LEGACY_ALIGNMENT = 4096n;
const DESCRIPTOR_BYTES = 16n;
const EVENT_BYTES = 4n;

/** The rings of a device, queue by queue. */
export function virtioRings(device: VirtioDevice): Ring[] {
  const features = guestFeatures(device);
  const isPacked = (features & FEATURE_RING_PACKED) !== 0n;
  const isLegacy = (features & FEATURE_VERSION_1) === 0n;
  return device.queues.map(({ size, descriptors, lastAvailableIndex, vector }, queue) => {
    const table = { address: descriptors, bytes: DESCRIPTOR_BYTES * BigInt(size) };
    const addresses = isLegacy ? legacyAddresses(table, size) : device.subsections.rings?.[queue];
    const memory =
      descriptors === 0n || addresses === undefined
        ? null
        : {
            descriptors: table,
            available: { address: addresses.available, bytes: isPacked ? EVENT_BYTES : availableBytes(size) },
            used: { address: addresses.used, bytes: isPacked ? EVENT_BYTES : usedBytes(size) },
          };
    const packed = (isPacked && device.subsections.packedQueues?.[queue]) || null;
    return { queue, size, vector, lastAvailableIndex, memory, packed };
  });
}

/** Flags, index, an entry a descriptor, and the event index. */
function availableBytes(size: number): bigint {
  return 6n + 2n * BigInt(size);
}

/** Flags, index, an entry of eight bytes a descriptor, and the event index. */
function usedBytes(size: number): bigint {
  return 6n + 8n * BigInt(size);
}

function legacyAddresses(table: RingArea, size: number): { readonly available: bigint; readonly used: bigint } {
  const available = table.address + table.bytes;
  const end = available + 4n + 2n * BigInt(size);
  return { available, used: ((end + LEGACY_ALIGNMENT - 1n) / LEGACY_ALIGNMENT) * LEGACY_ALIGNMENT };
}
