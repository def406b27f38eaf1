/**
 * Virtio device types: which sections are theirs, and what each saves of its own.
 *
 * A type is known by the section's name behind the PCI address, as in
 * `0000:00:02.0/virtio-net`. A type that is not here keeps its state in a way of its
 * own (graphics, IOMMU, memory devices) or refuses to be migrated.
 *
 * Source: QEMU 10.2, the VMStateDescription and save function of each device; virtio 1.3, 5.
 */

import type { ByteWriter } from "../byte-writer.js";
import { backendStateSubsection } from "./backend-state.js";
import { type BalloonPart, readBalloonPart, writeBalloonPart } from "./balloon-part.js";
import { type BlockPart, readBlockPart, writeBlockPart } from "./block-part.js";
import { type ConsolePart, readConsolePart, writeConsolePart } from "./console-part.js";
import { inflightRegionSubsection } from "./inflight-region.js";
import { type NetPart, readNetPart, writeNetPart } from "./net-part.js";
import type { StateReader } from "./state-reader.js";

/** What a type saves of its own, between the queues and the subsections of every virtio device. */
export type DevicePart = NetPart | BlockPart | ConsolePart | BalloonPart | { readonly kind: "none" };

export type VirtioDeviceType = {
  /** The section's name behind the PCI address. */
  readonly name: string;
  /** The section's version. */
  readonly version: number;
  /** The number that the virtio specification gives the type. */
  readonly id: number;
  /** PCI device of a type that old guests can drive; null of a younger type. */
  readonly transitionalPciDevice: number | null;
  readonly part: DevicePart["kind"];
};

const TYPES: readonly VirtioDeviceType[] = [
  { name: "virtio-net", version: 11, id: 1, transitionalPciDevice: 0x1000, part: "net" },
  { name: "virtio-blk", version: 2, id: 2, transitionalPciDevice: 0x1001, part: "block" },
  { name: "vhost-user-blk", version: 1, id: 2, transitionalPciDevice: 0x1001, part: "none" },
  { name: "virtio-console", version: 3, id: 3, transitionalPciDevice: 0x1003, part: "console" },
  { name: "virtio-rng", version: 1, id: 4, transitionalPciDevice: 0x1005, part: "none" },
  { name: "virtio-balloon", version: 1, id: 5, transitionalPciDevice: 0x1002, part: "balloon" },
  // vhost-user-scsi writes sections of this name too; requests are saved with the disks.
  { name: "virtio-scsi", version: 1, id: 8, transitionalPciDevice: 0x1004, part: "none" },
  { name: "virtio-9p", version: 1, id: 9, transitionalPciDevice: 0x1009, part: "none" },
  { name: "virtio-input", version: 1, id: 18, transitionalPciDevice: null, part: "none" },
  { name: "vhost-user-fs", version: 0, id: 26, transitionalPciDevice: null, part: "none" },
];

/** Domain and bus, slot and function of every bridge on the way and of the device itself, then the device's name. */
const PCI_SECTION_NAME = /^[0-9a-f]{4}:[0-9a-f]{2}(?::[0-9a-f]{2}\.[0-7])+\/([^/]+)$/;

/** The type of the device that a section belongs to; null if it is no virtio device on PCI, or none that is known here. */
export function virtioDeviceType(section: string): VirtioDeviceType | null {
  const name = PCI_SECTION_NAME.exec(section)?.[1];
  return TYPES.find((type) => type.name === name) ?? null;
}

/** What the middle of a device's state must know of the rest. */
export type PartContext = {
  readonly queueCount: number;
  /** Guest features 0 to 31. */
  readonly featuresLow: number;
  /** Whether the device offers packed rings. */
  readonly offersPacked: boolean;
};

const NET_CTRL_GUEST_OFFLOADS = 1 << 2;

export function readDevicePart(reader: StateReader, type: VirtioDeviceType, context: PartContext): DevicePart {
  switch (type.part) {
    case "net":
      return readNetPart(reader, (context.featuresLow & NET_CTRL_GUEST_OFFLOADS) !== 0);
    case "block":
      return readBlockPart(reader, context.queueCount, context.offersPacked);
    case "console":
      return readConsolePart(reader, context.offersPacked);
    case "balloon":
      return readBalloonPart(reader);
    case "none":
      return { kind: "none" };
  }
}

export function writeDevicePart(out: ByteWriter, part: DevicePart): void {
  switch (part.kind) {
    case "net":
      writeNetPart(out, part);
      break;
    case "block":
      writeBlockPart(out, part);
      break;
    case "console":
      writeConsolePart(out, part);
      break;
    case "balloon":
      writeBalloonPart(out, part);
      break;
    case "none":
      break;
  }
}

/** Subsections of the section itself, behind all that virtio devices share. */
export const SECTION_SUBSECTIONS = {
  inflight: inflightRegionSubsection("vhost-user-blk/inflight"),
  backendState: backendStateSubsection("vhost-user-fs-backend"),
};
