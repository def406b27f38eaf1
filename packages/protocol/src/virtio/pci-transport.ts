/**
 * PCI transport: the part of a virtio device's state that its PCI function saves first.
 *
 *   version │ configuration space │ interrupt lines │ MSI-X table │ pending bits │ configuration vector
 *
 * How long it is stands in the configuration space itself: a PCI Express
 * capability means 4096 bytes of it instead of 256, an MSI-X capability means
 * that table, pending bits and vectors follow, for as many vectors as it says.
 * The configuration space is kept as it came, little-endian registers.
 *
 * Source: QEMU 10.2, hw/pci/pci.c, pci_device_save(); hw/pci/msix.c, msix_save();
 * hw/virtio/virtio-pci.c, virtio_pci_save_config().
 */

import type { ByteWriter } from "../byte-writer.js";
import { viewOf } from "../layout.js";
import type { StateReader } from "./state-reader.js";

export type PciTransport = {
  /** 256 bytes, or 4096 of a PCI Express function. */
  readonly configurationSpace: Uint8Array;
  /** Level of INTA to INTD, each 0 or 1. Wire: irq_state. */
  readonly interruptLines: readonly number[];
  readonly msix: MsixState | null;
};

export type MsixState = {
  /** 16 bytes a vector, as the guest wrote them. */
  readonly table: Uint8Array;
  /** One bit a vector. */
  readonly pending: Uint8Array;
  /** The vector of configuration changes; NO_VECTOR if the guest chose none. */
  readonly configurationVector: number;
};

/** What a guest that wants no MSI-X vector leaves in a vector register. */
export const NO_VECTOR = 0xffff;

const PCI_DEVICE_VERSION = 2;
const CONFIGURATION_BYTES = 256;
const CONFIGURATION_BYTES_EXPRESS = 4096;
const INTERRUPT_LINES = 4;
const MSIX_ENTRY_BYTES = 16;

const STATUS = 0x06;
const STATUS_CAPABILITIES = 0x10;
const CAPABILITIES = 0x34;
const CAPABILITY_FIRST = 0x40;
const CAPABILITY_EXPRESS = 0x10;
const CAPABILITY_MSIX = 0x11;
/** As many four-byte capabilities as fit behind the header: more is a loop. */
const CAPABILITIES_MAX = 48;

export function readPciTransport(reader: StateReader): PciTransport {
  const version = reader.u32("PCI device version");
  if (version !== PCI_DEVICE_VERSION)
    throw reader.refused("VIRTIO_PCI_VERSION", "PCI device version", `${version} came, ${PCI_DEVICE_VERSION} was due`);
  const what = "PCI configuration space";
  let configurationSpace = reader.bytes(CONFIGURATION_BYTES, what);
  if (findCapability(configurationSpace, CAPABILITY_EXPRESS) !== null) {
    const extended = reader.bytes(CONFIGURATION_BYTES_EXPRESS - CONFIGURATION_BYTES, what);
    const whole = new Uint8Array(CONFIGURATION_BYTES_EXPRESS);
    whole.set(configurationSpace);
    whole.set(extended, CONFIGURATION_BYTES);
    configurationSpace = whole;
  }
  const interruptLines = Array.from({ length: INTERRUPT_LINES }, () => reader.u32("interrupt lines"));
  const vectors = vectorCount(configurationSpace);
  const msix =
    vectors === 0
      ? null
      : {
          table: reader.bytes(MSIX_ENTRY_BYTES * vectors, "MSI-X table"),
          pending: reader.bytes(Math.ceil(vectors / 8), "MSI-X pending bits"),
          configurationVector: reader.u16("configuration vector"),
        };
  return { configurationSpace, interruptLines, msix };
}

export function writePciTransport(out: ByteWriter, pci: PciTransport): void {
  out.u32(PCI_DEVICE_VERSION).bytes(pci.configurationSpace);
  for (const level of pci.interruptLines) out.u32(level);
  if (pci.msix === null) return;
  out.bytes(pci.msix.table).bytes(pci.msix.pending).u16(pci.msix.configurationVector);
}

/** MSI-X vectors of a function; 0 without MSI-X. */
export function vectorCount(configurationSpace: Uint8Array): number {
  const msix = findCapability(configurationSpace, CAPABILITY_MSIX);
  if (msix === null || msix + 4 > CONFIGURATION_BYTES) return 0;
  return (viewOf(configurationSpace).getUint16(msix + 2, true) & 0x7ff) + 1;
}

/** Where a capability begins; null without it, or if the list leads nowhere. */
function findCapability(configurationSpace: Uint8Array, id: number): number | null {
  if ((configurationSpace[STATUS]! & STATUS_CAPABILITIES) === 0) return null;
  let at = configurationSpace[CAPABILITIES]! & ~3;
  for (let seen = 0; at >= CAPABILITY_FIRST && seen < CAPABILITIES_MAX; seen++) {
    if (configurationSpace[at] === id) return at;
    at = configurationSpace[at + 1]! & ~3;
  }
  return null;
}
