/**
 * Check of rings against guest RAM: whether device and guest agree on how far a queue has got.
 *
 * The used index and the guest's own available index are not in the device's
 * state: they lie in guest RAM, which is why RAM is loaded first. A device
 * may be behind the guest by no more entries than the ring has, and ahead of
 * what it gave back by no more either; else RAM and state are of different moments.
 *
 * Source: QEMU 10.2, hw/virtio/virtio.c, virtio_load(); virtio 1.3, 2.7.
 */

import { ProtocolError } from "../errors.js";
import { viewOf } from "../layout.js";
import { type Ring, type RingArea, type RingMemory, virtioRings } from "./rings.js";
import type { VirtioDevice } from "./virtio-device.js";

/** Guest RAM by guest address. */
export interface GuestMemory {
  /** The bytes from `address` on, which are only read; null if that is not all RAM. */
  read(address: bigint, bytes: number): Uint8Array | null;
}

/** The index of a split ring lies behind its flags. */
const INDEX_OFFSET = 2n;

/**
 * Checks each queue that the guest has set up.
 *
 * @param memory  Without it only what the state says of itself is checked.
 * @throws {ProtocolError} VIRTIO_RING_MEMORY or VIRTIO_RING_INDEX, naming queue, value and bound.
 */
export function checkRings(device: VirtioDevice, memory: GuestMemory | undefined): void {
  for (const ring of virtioRings(device)) {
    if (ring.memory === null) continue;
    if (memory !== undefined) {
      checkArea(device, ring, "descriptor table", ring.memory.descriptors, memory);
      checkArea(device, ring, "available ring", ring.memory.available, memory);
      checkArea(device, ring, "used ring", ring.memory.used, memory);
    }
    if (ring.packed !== null) checkPacked(device, ring);
    else if (memory !== undefined) checkSplit(device, ring, ring.memory, memory);
  }
}

function checkArea(device: VirtioDevice, ring: Ring, what: string, area: RingArea, memory: GuestMemory): void {
  if (memory.read(area.address, Number(area.bytes)) !== null) return;
  const place = `${what} at 0x${area.address.toString(16)}, ${area.bytes} bytes`;
  throw refused(device, ring, "VIRTIO_RING_MEMORY", `its ${place}, does not lie in guest RAM`);
}

function checkPacked(device: VirtioDevice, ring: Ring): void {
  const { lastAvailableIndex, usedIndex, inUse } = ring.packed!;
  for (const [what, value, bound] of [
    ["last available index", lastAvailableIndex, ring.size - 1],
    ["used index", usedIndex, ring.size - 1],
    ["descriptors in use", inUse, ring.size],
  ] as const)
    if (value > bound)
      throw refused(device, ring, "VIRTIO_RING_INDEX", `${what} ${value} came, ${bound} at most was due`);
}

function checkSplit(device: VirtioDevice, ring: Ring, rings: RingMemory, memory: GuestMemory): void {
  const isBigEndian = device.subsections.endianness === "big";
  const indexOf = ({ address }: RingArea) => viewOf(memory.read(address + INDEX_OFFSET, 2)!).getUint16(0, !isBigEndian);
  const [available, used] = [indexOf(rings.available), indexOf(rings.used)];
  const last = ring.lastAvailableIndex;
  const waiting = (available - last) & 0xffff;
  if (waiting > ring.size) {
    const message = `the guest's available index ${available} is ${waiting} ahead of last available index ${last}, ${ring.size} at most was due`;
    throw refused(device, ring, "VIRTIO_RING_INDEX", message);
  }
  const inUse = (last - used) & 0xffff;
  if (inUse > ring.size) {
    const message = `last available index ${last} is ${inUse} ahead of used index ${used}, ${ring.size} at most was due`;
    throw refused(device, ring, "VIRTIO_RING_INDEX", message);
  }
}

function refused(device: VirtioDevice, ring: Ring, code: string, message: string): ProtocolError {
  const remedy = "device state and RAM are not of the same moment";
  return new ProtocolError(code, `${device.section}, queue ${ring.queue}: ${message}; ${remedy}`);
}
