/**
 * Virtio summary: what a virtio device's section says, which the stream's description calls one field.
 *
 * It brings together what lies in several places of the section: features by name, each queue with its
 * rings and how far it has got, the state of a vhost-user back-end. It also says whether a
 * destination could run with it. Json values, for text and for JSON alike: bytes are hexadecimal text,
 * an integer that a double cannot hold is a decimal text.
 */
import {
  checkVirtioDevice,
  type DevicePart,
  decodeVirtioDevice,
  describeParkedElement,
  featureNames,
  guestFeatures,
  joinBackendState,
  MigrationError,
  type ParkedElement,
  type Ring,
  statusNames,
  type VirtioDevice,
  virtioRings,
} from "@multifd/protocol";
import type { Json } from "./json.js";

export type QueueSummary = {
  readonly queue: number;
  /** Descriptors. */
  readonly size: number;
  /** MSI-X vector; null if there is none. */
  readonly vector: number | null;
  readonly lastAvailableIndex: number;
  /** Guest addresses; null of a queue that the guest has not set up. */
  readonly descriptors: Json;
  readonly available: Json;
  readonly used: Json;
  /** Indexes of a packed ring; null of a split one. */
  readonly packed: Json;
};

export type VirtioSummary = {
  readonly type: string;
  readonly status: readonly string[];
  readonly features: Json;
  readonly featureNames: readonly string[];
  /** Null unless the guest's byte order is unusual for its device. */
  readonly endianness: string | null;
  readonly started: boolean;
  readonly broken: boolean;
  readonly disabled: boolean;
  readonly interruptStatus: number;
  readonly queueSelect: number;
  readonly configuration: string;
  /** Null without MSI-X. */
  readonly msixVectors: number | null;
  readonly queues: readonly QueueSummary[];
  /** What the type saves of its own. */
  readonly own: { readonly [key: string]: Json };
  readonly backendState: string | null;
  readonly inflight: Json;
  /** What a destination would refuse first; null if nothing. */
  readonly refusal: Refusal | null;
};

export type Refusal = { readonly code: string; readonly message: string };

const NO_VECTOR = 0xffff;
const MSIX_ENTRY_BYTES = 16;

/**
 * Summarizes a device section.
 *
 * @param device  Its name, and its state without header and footer.
 * @returns Null, if it is no virtio device of a known type; the refusal alone, if it cannot be decoded.
 */
export function summarizeVirtio(device: {
  readonly name: string;
  readonly version: number;
  readonly bytes: Uint8Array;
}): VirtioSummary | { readonly refusal: Refusal } | null {
  try {
    const decoded = decodeVirtioDevice(device.name, device.bytes, device.version);
    return decoded === null ? null : summary(decoded);
  } catch (error) {
    return { refusal: refusalOf(error) };
  }
}

function summary(device: VirtioDevice): VirtioSummary {
  const features = guestFeatures(device);
  const { subsections, sectionSubsections, pci, part } = device;
  const { inflight } = sectionSubsections;
  const backendState =
    sectionSubsections.backendState ?? (part.kind === "net" ? part.subsections.backendState : undefined);
  return {
    type: device.type.name,
    status: statusNames(device.status),
    features: plain(features),
    featureNames: featureNames(device.type.id, features),
    endianness: subsections.endianness ?? null,
    started: subsections.started ?? false,
    broken: subsections.broken ?? false,
    disabled: subsections.disabled ?? false,
    interruptStatus: device.interruptStatus,
    queueSelect: device.queueSelect,
    configuration: hex(device.config),
    msixVectors: pci.msix === null ? null : pci.msix.table.length / MSIX_ENTRY_BYTES,
    queues: virtioRings(device).map(queueSummary),
    own: ownState(part),
    backendState: backendState === undefined ? null : hex(joinBackendState(backendState)),
    inflight: inflight === undefined ? null : plain(inflight),
    refusal: refusalOfCheck(device),
  };
}

function queueSummary({ queue, size, vector, lastAvailableIndex, memory, packed }: Ring): QueueSummary {
  return {
    queue,
    size,
    vector: vector === NO_VECTOR ? null : vector,
    lastAvailableIndex,
    descriptors: memory && plain(memory.descriptors.address),
    available: memory && plain(memory.available.address),
    used: memory && plain(memory.used.address),
    packed: packed && plain(packed),
  };
}

/** A part's values, subsections among them; a back-end's state has its own place. */
function ownState(part: DevicePart): VirtioSummary["own"] {
  switch (part.kind) {
    case "net": {
      const { kind: _, subsections, mac, macFilters, ...values } = part;
      const { backendState: __, ...others } = subsections;
      return members({ mac: macText(mac), macFilters: macFilters.map(macText), ...values, ...others });
    }
    case "block":
      return members({ requests: part.requests.map((request) => ({ queue: request.queue ?? 0, ...parked(request) })) });
    case "console": {
      const { kind: _, ports, ...values } = part;
      return members({
        ...values,
        ports: ports.map((port) => ({ ...port, parked: port.parked && parked(port.parked) })),
      });
    }
    case "balloon": {
      const { kind: _, subsections, ...values } = part;
      return members({ ...values, ...subsections });
    }
    case "none":
      return {};
  }
}

/** What a parked request is about; its struct as it came, if it is damaged. */
function parked(element: ParkedElement): object {
  return describeParkedElement(element) ?? { damaged: element.bytes };
}

function macText(mac: Uint8Array): string {
  return hex(mac).replace(/..(?!$)/g, "$&:");
}

function members(values: object): { readonly [key: string]: Json } {
  return Object.fromEntries(Object.entries(values).map(([key, value]) => [key, plain(value)]));
}

function refusalOfCheck(device: VirtioDevice): Refusal | null {
  try {
    checkVirtioDevice(device);
    return null;
  } catch (error) {
    return refusalOf(error);
  }
}

function refusalOf(error: unknown): Refusal {
  if (!(error instanceof MigrationError)) throw error;
  return { code: error.code, message: error.message };
}

function plain(value: unknown): Json {
  if (typeof value === "bigint") return value <= BigInt(Number.MAX_SAFE_INTEGER) ? Number(value) : value.toString();
  if (value instanceof Uint8Array) return hex(value);
  if (Array.isArray(value)) return value.map(plain);
  if (typeof value === "object" && value !== null) return members(value);
  return value as null | boolean | number | string;
}

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString("hex");
}
