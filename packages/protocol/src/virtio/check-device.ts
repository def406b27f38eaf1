/**
 * Check of a virtio device: whether a destination could run with the state that came.
 *
 * What a destination refuses when it loads a device, and what it would stumble
 * over later, said before anything is loaded. Each refusal names the
 * device, the queue where there is one, the value that came and its bound.
 * The order is that of loading. Decoding has refused what has no form:
 * unknown subsections, counts beyond their limits, flags that are neither yes nor no.
 *
 * Source: QEMU 10.2, hw/virtio/virtio.c, virtio_load(); hw/virtio/virtio-pci.c, virtio_pci_load_config().
 */

import { ProtocolError } from "../errors.js";
import { viewOf } from "../layout.js";
import { checkRings, type GuestMemory } from "./check-rings.js";
import { FEATURE_RING_PACKED, FEATURE_VERSION_1, featureNames, guestFeatures } from "./feature-names.js";
import { describeParkedElement, type ParkedElement } from "./parked-element.js";
import { NO_VECTOR, vectorCount } from "./pci-transport.js";
import type { VirtioDevice } from "./virtio-device.js";
import { QUEUES_MAX } from "./virtio-subsections.js";

/** What the check may know beside the state; what is not given is not checked. */
export type DestinationFacts = {
  /** Features that the destination's device offers, bit 0 to 127. */
  readonly offeredFeatures?: bigint;
  /** The PCI configuration space of the destination's device, and a mask of the bits in it that must agree. */
  readonly pci?: { readonly configurationSpace: Uint8Array; readonly compared: Uint8Array };
  /** Guest RAM as it is when the device is loaded, which is after RAM. */
  readonly memory?: GuestMemory;
};

/** Descriptors that a queue may have. */
const QUEUE_SIZE_MAX = 1024;
const VENDOR_VIRTIO = 0x1af4;
const PCI_DEVICE_MODERN = 0x1040;

/**
 * Checks a device's state.
 *
 * @throws {ProtocolError} VIRTIO_… at the first thing that a destination could not run with.
 */
export function checkVirtioDevice(device: VirtioDevice, facts: DestinationFacts = {}): void {
  checkPci(device, facts);
  checkVectors(device);
  checkQueues(device);
  checkPart(device);
  checkFeatures(device, facts.offeredFeatures);
  checkRings(device, facts.memory);
}

function checkPci(device: VirtioDevice, facts: DestinationFacts): void {
  const { configurationSpace, interruptLines } = device.pci;
  const view = viewOf(configurationSpace);
  const [vendor, id] = [view.getUint16(0, true), view.getUint16(2, true)];
  const modern = PCI_DEVICE_MODERN + device.type.id;
  const transitional = device.type.transitionalPciDevice;
  if (vendor !== VENDOR_VIRTIO || !(id === modern || id === transitional)) {
    const due = [modern, transitional].flatMap((known) =>
      known === null ? [] : `${hex(VENDOR_VIRTIO)}:${hex(known)}`,
    );
    throw refused(device, "VIRTIO_PCI_ID", `PCI device ${hex(vendor)}:${hex(id)} came, ${due.join(" or ")} was due`);
  }
  interruptLines.forEach((level, line) => {
    if (level > 1)
      throw refused(device, "VIRTIO_INTERRUPT_LINE", `interrupt line ${"ABCD"[line]} is ${level}, 0 or 1 was due`);
  });
  if (facts.pci !== undefined) comparePci(device, facts.pci);
}

function comparePci(device: VirtioDevice, due: NonNullable<DestinationFacts["pci"]>): void {
  const came = device.pci.configurationSpace;
  const bytes = due.configurationSpace.length;
  if (came.length !== bytes) {
    const message = `${came.length} bytes of PCI configuration space came, ${bytes} were due; put the device on the same kind of bus`;
    throw refused(device, "VIRTIO_PCI_CONFIGURATION", message);
  }
  for (let at = 0; at < bytes; at++) {
    const mask = due.compared[at] ?? 0;
    const [is, must] = [came[at]! & mask, due.configurationSpace[at]! & mask];
    if (is === must) continue;
    const message = `PCI configuration byte ${hex(at)} is ${hex(is)}, ${hex(must)} was due; give the device the same properties on both sides`;
    throw refused(device, "VIRTIO_PCI_CONFIGURATION", message);
  }
}

function checkVectors(device: VirtioDevice): void {
  const { msix, configurationSpace } = device.pci;
  if (msix === null) return;
  const vectors = vectorCount(configurationSpace);
  const check = (vector: number, what: string) => {
    if (vector < vectors || vector === NO_VECTOR) return;
    const due = `below ${vectors} or ${hex(NO_VECTOR)} for none`;
    throw refused(device, "VIRTIO_VECTOR", `${what} ${vector} came, a number ${due} was due`);
  };
  check(msix.configurationVector, "configuration vector");
  device.queues.forEach(({ vector }, queue) => {
    check(vector!, `queue ${queue}: vector`);
  });
}

function checkQueues(device: VirtioDevice): void {
  if (device.queueSelect >= QUEUES_MAX)
    throw refused(
      device,
      "VIRTIO_QUEUE_SELECT",
      `queue ${device.queueSelect} is selected, below ${QUEUES_MAX} was due`,
    );
  const isPacked = (guestFeatures(device) & FEATURE_RING_PACKED) !== 0n;
  device.queues.forEach(({ size, descriptors, lastAvailableIndex }, queue) => {
    const isPower = (size & (size - 1)) === 0;
    if (size < 1 || size > QUEUE_SIZE_MAX || !(isPacked || isPower)) {
      const due = isPacked ? `1 to ${QUEUE_SIZE_MAX}` : `a power of two up to ${QUEUE_SIZE_MAX}`;
      throw refused(device, "VIRTIO_QUEUE_SIZE", `queue ${queue}: size ${size} came, ${due} was due`);
    }
    if (descriptors === 0n && lastAvailableIndex !== 0) {
      const message = `queue ${queue}: last available index ${lastAvailableIndex} came without rings, 0 was due`;
      throw refused(device, "VIRTIO_QUEUE_INDEX", message);
    }
  });
}

function checkPart(device: VirtioDevice): void {
  const { part, queues } = device;
  if (part.kind === "block")
    for (const request of part.requests) {
      const queue = request.queue ?? 0;
      if (queue >= queues.length) {
        const message = `a parked request names queue ${queue}, below ${queues.length} was due`;
        throw refused(device, "VIRTIO_PARKED_REQUEST", message);
      }
      checkElement(device, request, `queue ${queue}`, queues[queue]!.size);
    }
  if (part.kind === "console")
    for (const { id, parked } of part.ports) {
      const isInUse = ((part.portsMap[id >>> 5] ?? 0) >>> (id & 31)) & 1;
      if (!isInUse) throw refused(device, "VIRTIO_PORT", `port ${id} came, which the map of ports does not have`);
      if (parked !== null) checkElement(device, parked, `port ${id}`, QUEUE_SIZE_MAX);
    }
}

function checkElement(device: VirtioDevice, element: ParkedElement, where: string, size: number): void {
  const request = describeParkedElement(element);
  if (request === null) {
    const message = `${where}: a parked request has more buffers than its struct holds (${QUEUE_SIZE_MAX})`;
    throw refused(device, "VIRTIO_PARKED_REQUEST", message);
  }
  const buffers = request.toRead.length + request.toWrite.length;
  if (buffers > QUEUE_SIZE_MAX) {
    const message = `${where}: a parked request has ${buffers} buffers, ${QUEUE_SIZE_MAX} at most were due`;
    throw refused(device, "VIRTIO_PARKED_REQUEST", message);
  }
  if (request.head < size) return;
  const message = `${where}: a parked request has descriptor ${request.head}, below ${size} was due`;
  throw refused(device, "VIRTIO_PARKED_REQUEST", message);
}

function checkFeatures(device: VirtioDevice, offered: bigint | undefined): void {
  const { featuresLow, subsections, type } = device;
  const features = guestFeatures(device);
  const low = Number(features & 0xffffffffn);
  if (low !== featuresLow) {
    const message = `features ${hex(featuresLow)} came with the core, ${hex(low)} with the subsection; they were due alike`;
    throw refused(device, "VIRTIO_FEATURES", message);
  }
  const isModern = (features & FEATURE_VERSION_1) !== 0n;
  if (isModern && subsections.endianness === "big")
    throw refused(device, "VIRTIO_ENDIANNESS", "big-endian came with VERSION_1, which is little-endian");
  if (isModern && subsections.rings === undefined)
    throw refused(device, "VIRTIO_FEATURES", "VERSION_1 was negotiated, but no ring addresses came");
  if ((features & FEATURE_RING_PACKED) !== 0n && subsections.packedQueues === undefined)
    throw refused(device, "VIRTIO_FEATURES", "RING_PACKED was negotiated, but no packed indexes came");
  const surplus = offered === undefined ? 0n : features & ~offered;
  if (surplus === 0n) return;
  const names = featureNames(type.id, surplus).join(", ");
  const message = `features ${hex(features)} came, ${hex(offered!)} are offered here: ${names} too many; give the device the same properties on both sides`;
  throw refused(device, "VIRTIO_FEATURES", message);
}

function refused(device: VirtioDevice, code: string, message: string): ProtocolError {
  return new ProtocolError(code, `${device.section}: ${message}`);
}

function hex(value: number | bigint): string {
  return `0x${value.toString(16)}`;
}
