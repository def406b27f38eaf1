/**
 * Virtio device state: one device section's data as a typed object, and back to the same bytes.
 *
 *   PCI transport │ core, queues │ device part │ virtio subsections │ section's own subsections
 *
 * Decoding checks form: every byte is accounted for and what it cannot keep
 * exactly is refused, so that encoding gives back what came. Whether a
 * destination could run with it is `checkVirtioDevice`'s to say.
 *
 * Source: QEMU 10.2, hw/virtio/virtio.c, virtio_save().
 */

import { ByteWriter } from "../byte-writer.js";
import { ProtocolError } from "../errors.js";
import { layout } from "../layout.js";
import { u8, u16be, u32be } from "../wire-fields.js";
import {
  type DevicePart,
  type PartContext,
  readDevicePart,
  SECTION_SUBSECTIONS,
  type VirtioDeviceType,
  virtioDeviceType,
  writeDevicePart,
} from "./device-types.js";
import { type PciTransport, readPciTransport, writePciTransport } from "./pci-transport.js";
import { StateReader } from "./state-reader.js";
import { readSubsections, type SubsectionValues, writeSubsections } from "./subsections.js";
import { QUEUES_MAX, VIRTIO_SUBSECTIONS, type VirtioSubsections } from "./virtio-subsections.js";

const core = layout(
  "virtio core",
  {
    status: u8,
    interruptStatus: u8, // wire: isr
    queueSelect: u16be,
    /** Guest features 0 to 31. */
    featuresLow: u32be,
    configBytes: u32be, // wire: config_len
  },
  { size: 12 },
);

/** The largest configuration that a device of today has is a few hundred bytes long. */
const CONFIG_BYTES_MAX = 65536;

export type VirtioQueue = {
  /** Descriptors; wire: vring.num. */
  readonly size: number;
  /** Guest address of the descriptor table; 0 of a queue that the guest has not set up. */
  readonly descriptors: bigint;
  /** The next entry of the available ring that the device takes, modulo 2^16. */
  readonly lastAvailableIndex: number;
  /** MSI-X vector; null of a device without MSI-X. */
  readonly vector: number | null;
};

export type VirtioDevice = {
  /** The section's name, as in `0000:00:02.0/virtio-net`. */
  readonly section: string;
  readonly type: VirtioDeviceType;
  readonly pci: PciTransport;
  readonly status: number;
  readonly interruptStatus: number;
  readonly queueSelect: number;
  readonly featuresLow: number;
  /** The device's configuration as the guest last saw it. */
  readonly config: Uint8Array;
  /** Up to the first queue without a size. */
  readonly queues: readonly VirtioQueue[];
  readonly part: DevicePart;
  readonly subsections: VirtioSubsections;
  readonly sectionSubsections: SubsectionValues<typeof SECTION_SUBSECTIONS>;
};

/**
 * Decodes the state of a virtio device on PCI.
 *
 * @param section  The section's name.
 * @param bytes    The section's data, without header and footer; what is kept of it is copied.
 * @param version  The section's version.
 * @returns Null, if the section is no virtio device's or of a type that is not known here.
 * @throws {ProtocolError} VIRTIO_…, WIRE_…, naming section, byte and field.
 */
export function decodeVirtioDevice(section: string, bytes: Uint8Array, version: number): VirtioDevice | null {
  const type = virtioDeviceType(section);
  if (type === null) return null;
  if (version !== type.version) {
    const message = `${section}: version ${version} came, ${type.version} was due; the device is newer or older than this program knows`;
    throw new ProtocolError("VIRTIO_VERSION", message);
  }
  // Requests are longer if the device offers packed rings, which only a subsection behind them tells.
  const first = attempt(() => readDevice(section, type, bytes, false));
  if (first.device !== null && !needsPacked(first.device)) return first.device;
  const second = attempt(() => readDevice(section, type, bytes, true));
  if (second.device?.subsections.packedQueues !== undefined) return second.device;
  throw first.error ?? second.error ?? contradiction(section);
}

/** Encodes a device's state: the inverse of `decodeVirtioDevice`. */
export function encodeVirtioDevice(device: VirtioDevice): Uint8Array<ArrayBuffer> {
  const out = new ByteWriter();
  writePciTransport(out, device.pci);
  out.bytes(core.encode({ ...device, configBytes: device.config.length })).bytes(device.config);
  out.u32(device.queues.length);
  for (const { size, descriptors, lastAvailableIndex, vector } of device.queues) {
    out.u32(size).u64Exact(descriptors).u16(lastAvailableIndex);
    if (vector !== null) out.u16(vector);
  }
  writeDevicePart(out, device.part);
  writeSubsections(out, VIRTIO_SUBSECTIONS, device.subsections);
  writeSubsections(out, SECTION_SUBSECTIONS, device.sectionSubsections);
  return out.finish();
}

function readDevice(section: string, type: VirtioDeviceType, bytes: Uint8Array, offersPacked: boolean): VirtioDevice {
  const reader = new StateReader(section, bytes);
  const pci = readPciTransport(reader);
  const { configBytes, ...head } = reader.layout(core);
  const config = reader.bytes(reader.bounded(configBytes, CONFIG_BYTES_MAX, "configuration"), "configuration");
  const queueCount = reader.bounded(reader.u32("queue count"), QUEUES_MAX, "queue count");
  const queues = Array.from({ length: queueCount }, (_, index) => readQueue(reader, index, pci.msix !== null));
  const context: PartContext = { queueCount, featuresLow: head.featuresLow, offersPacked };
  const part = readDevicePart(reader, type, context);
  const subsections = readSubsections(reader, "virtio", VIRTIO_SUBSECTIONS);
  const sectionSubsections = readSubsections(reader, type.name, SECTION_SUBSECTIONS);
  reader.end();
  return { section, type, pci, ...head, config, queues, part, subsections, sectionSubsections };
}

function readQueue(reader: StateReader, index: number, hasVectors: boolean): VirtioQueue {
  const what = `queue ${index}`;
  return {
    size: reader.u32(what),
    descriptors: reader.u64(what),
    lastAvailableIndex: reader.u16(what),
    vector: hasVectors ? reader.u16(what) : null,
  };
}

/** Whether requests were read as of a device without packed rings that offers them after all. */
function needsPacked({ part, subsections }: VirtioDevice): boolean {
  if (subsections.packedQueues === undefined) return false;
  if (part.kind === "block") return part.requests.length > 0;
  return part.kind === "console" && part.ports.some(({ parked }) => parked !== null);
}

type Attempt =
  | { readonly device: VirtioDevice; readonly error: null }
  | { readonly device: null; readonly error: ProtocolError };

function attempt(read: () => VirtioDevice): Attempt {
  try {
    return { device: read(), error: null };
  } catch (error) {
    if (error instanceof ProtocolError) return { device: null, error };
    throw error;
  }
}

function contradiction(section: string): ProtocolError {
  const message = `${section}: parked requests are not written as the device's features demand; the section is damaged`;
  return new ProtocolError("VIRTIO_PARKED_REQUEST", message);
}
