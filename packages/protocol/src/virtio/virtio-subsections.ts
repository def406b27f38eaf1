/**
 * Virtio subsections: what every virtio device saves behind its own part.
 *
 * Arrays cover all 1024 queues that a device may have, whatever number it uses.
 * Which subsections are there says what the device offers, not what its guest
 * took: 64-bit features and ring addresses are sent by every device that
 * offers VERSION_1, packed indexes by every device that offers RING_PACKED.
 *
 * Source: QEMU 10.2, hw/virtio/virtio.c, vmstate_virtio; hw/virtio/virtio-pci.c, vmstate_virtio_pci.
 */

import { layout } from "../layout.js";
import { u8, u16be, u32be, u64beExact, type ValueField } from "../wire-fields.js";
import { readSubsections, type SubsectionFormat, type SubsectionValues, writeSubsections } from "./subsections.js";

/** Queues that a device may have; every array of queues is this long. */
export const QUEUES_MAX = 1024;

/** All that a subsection may hold whose presence says most. */
const flag: SubsectionFormat<boolean>["read"] = (reader) => reader.flag("flag");

/** Eight bytes as two big-endian words, the low one first. */
const lowWordFirst: ValueField<bigint> = {
  kind: "value",
  bytes: 8,
  get: (view, at) => BigInt(view.getUint32(at)) | (BigInt(view.getUint32(at + 4)) << 32n),
  put: (view, at, value) => {
    view.setUint32(at, Number(value & 0xffffffffn));
    view.setUint32(at + 4, Number(value >> 32n));
  },
};

const ringAddresses = layout(
  "ring addresses",
  {
    available: u64beExact,
    used: u64beExact,
  },
  { size: 16 },
);

const defaultSize = layout("default queue size", { size: u32be }, { size: 4 });

const packedQueue = layout(
  "packed queue",
  {
    lastAvailableIndex: u16be,
    lastAvailableWrap: u8,
    usedIndex: u16be,
    usedWrap: u8,
    inUse: u32be,
  },
  { size: 10 },
);

const modernQueue = layout(
  "queue of the modern PCI interface",
  {
    size: u16be,
    unused: u8.equals(0),
    enabled: u8,
    descriptors: lowWordFirst,
    available: lowWordFirst,
    used: lowWordFirst,
  },
  { size: 28 },
);

const modernState = layout(
  "modern PCI interface",
  {
    deviceFeatureSelect: u32be,
    guestFeatureSelect: u32be,
    guestFeatures: lowWordFirst,
  },
  { size: 16 },
);

const MODERN_STATE_SUBSECTIONS = {
  /** Features 64 to 127 as the guest writes them. */
  features128: {
    name: "virtio_pci/modern_state/features128",
    versions: [1],
    read: (reader) => BigInt(reader.u32("features 64 to 95")) | (BigInt(reader.u32("features 96 to 127")) << 32n),
    write: (out, features) => out.u32(Number(features & 0xffffffffn)).u32(Number(features >> 32n)),
  } satisfies SubsectionFormat<bigint>,
};

export type ModernQueue = ReturnType<(typeof modernQueue)["decode"]>;
export type PackedQueue = ReturnType<(typeof packedQueue)["decode"]>;
export type RingAddresses = ReturnType<(typeof ringAddresses)["decode"]>;

/** The registers of the modern PCI interface, half-made settings of a guest in the middle of set-up included. */
export type ModernState = ReturnType<(typeof modernState)["decode"]> & {
  readonly queues: readonly ModernQueue[];
  readonly subsections: SubsectionValues<typeof MODERN_STATE_SUBSECTIONS>;
};

const PCI_EXTRA_SUBSECTIONS = {
  modernState: {
    name: "virtio_pci/modern_state",
    versions: [1],
    read: (reader) => ({
      ...reader.layout(modernState),
      queues: reader.array(modernQueue, QUEUES_MAX),
      subsections: readSubsections(reader, "virtio_pci/modern_state", MODERN_STATE_SUBSECTIONS),
    }),
    write: (out, state) => {
      out.bytes(modernState.encode(state));
      for (const queue of state.queues) out.bytes(modernQueue.encode(queue));
      writeSubsections(out, MODERN_STATE_SUBSECTIONS, state.subsections);
    },
  } satisfies SubsectionFormat<ModernState>,
};

export type PciExtraState = SubsectionValues<typeof PCI_EXTRA_SUBSECTIONS>;

const ENDIANNESS = ["little", "big"] as const;
export type Endianness = (typeof ENDIANNESS)[number];

/** In the order in which they are saved. */
export const VIRTIO_SUBSECTIONS = {
  /** Byte order of a guest that does not have the usual one. */
  endianness: {
    name: "virtio/device_endian",
    versions: [1],
    read: (reader) => {
      const came = reader.u8("endianness");
      const endianness = ENDIANNESS[came - 1];
      if (endianness !== undefined) return endianness;
      throw reader.refused("VIRTIO_ENDIANNESS", "endianness", `${came} came, 1 (little) or 2 (big) was due`);
    },
    write: (out, endianness) => out.u8(ENDIANNESS.indexOf(endianness) + 1),
  } satisfies SubsectionFormat<Endianness>,
  /** Guest features 64 to 127. */
  features128: {
    name: "virtio/128bit_features",
    versions: [1],
    read: (reader) => reader.u64("features 64 to 127"),
    write: (out, features) => out.u64Exact(features),
  } satisfies SubsectionFormat<bigint>,
  /** Guest features 0 to 63. */
  features64: {
    name: "virtio/64bit_features",
    versions: [1],
    read: (reader) => reader.u64("features 0 to 63"),
    write: (out, features) => out.u64Exact(features),
  } satisfies SubsectionFormat<bigint>,
  rings: {
    name: "virtio/virtqueues",
    versions: [1],
    read: (reader) => reader.array(ringAddresses, QUEUES_MAX),
    write: (out, rings) => {
      for (const ring of rings) out.bytes(ringAddresses.encode(ring));
    },
  } satisfies SubsectionFormat<readonly RingAddresses[]>,
  /** The sizes that queues had before the guest chose its own. */
  defaultSizes: {
    name: "virtio/ringsize",
    versions: [1],
    read: (reader) => reader.array(defaultSize, QUEUES_MAX).map(({ size }) => size),
    write: (out, sizes) => {
      for (const size of sizes) out.u32(size);
    },
  } satisfies SubsectionFormat<readonly number[]>,
  broken: {
    name: "virtio/broken",
    versions: [1],
    read: flag,
    write: (out, broken) => out.u8(Number(broken)),
  } satisfies SubsectionFormat<boolean>,
  pciExtra: {
    name: "virtio/extra_state",
    versions: [1],
    read: (reader) => readSubsections(reader, "virtio_pci", PCI_EXTRA_SUBSECTIONS),
    write: (out, extra) => writeSubsections(out, PCI_EXTRA_SUBSECTIONS, extra),
  } satisfies SubsectionFormat<PciExtraState>,
  started: {
    name: "virtio/started",
    versions: [1],
    read: flag,
    write: (out, started) => out.u8(Number(started)),
  } satisfies SubsectionFormat<boolean>,
  packedQueues: {
    name: "virtio/packed_virtqueues",
    versions: [1],
    read: (reader) => reader.array(packedQueue, QUEUES_MAX),
    write: (out, queues) => {
      for (const queue of queues) out.bytes(packedQueue.encode(queue));
    },
  } satisfies SubsectionFormat<readonly PackedQueue[]>,
  disabled: {
    name: "virtio/disabled",
    versions: [1],
    read: flag,
    write: (out, disabled) => out.u8(Number(disabled)),
  } satisfies SubsectionFormat<boolean>,
};

export type VirtioSubsections = SubsectionValues<typeof VIRTIO_SUBSECTIONS>;
