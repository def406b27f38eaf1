/**
 * Guest devices: what a guest process tells of its devices that vhost-user back-ends serve.
 *
 * Beside its RAM blocks a guest's description may have
 *
 *   "memory":  [{"block": 0, "offset": 0, "guestAddress": 0, "bytes": N}, …]
 *   "devices": [{"name": "files", "features": "0x100000000", "connection": null,
 *                "rings": [{"index", "size", "descriptors", "available", "used", "base"}, …]}, …]
 *
 * and behind its RAM's descriptors come, for each ring, its kick event and its call
 * event; and where `connection` is {"offered", "protocolFeatures"}, the connection.
 * A guest has that from `adopt NAME OFFERED PROTOCOLFEATURES`, which brings the descriptor
 * of one that was set up for it; the guest keeps it open, sends nothing itself,
 * and so its back-end lives as long as it does. A guest that waits for a migration tells
 * sizes and events of its rings; the rest comes with the migration. With "mac":
 * "52:54:00:…" a network device is announced where the guest has moved to, by its back-end.
 */
import type { RamBlock } from "@multifd/memory";
import type { GuestRun, Negotiated, Ring, RingEvents } from "@multifd/peer-vhost-user";
import type { ProtocolError } from "@multifd/protocol";
import { isWhole } from "../answer-values.js";

export type MemoryRun = GuestRun;

export type GuestDevice = {
  readonly name: string;
  /** Device features that the guest's driver agreed on. */
  readonly features: bigint;
  readonly rings: readonly Ring[];
  readonly bases: readonly number[];
  /** Indexes into the description's descriptors. */
  readonly events: readonly RingEvents[];
  /** Six bytes. */
  readonly mac: Uint8Array | null;
  readonly connection: (Negotiated & { readonly at: number }) | null;
};

type Wrong = (what: string) => ProtocolError;

const RUNS_MAX = 64;
const DEVICES_MAX = 16;
const RINGS_MAX = 16;
const RING_SIZE_MAX = 32_768;
const GUEST_ADDRESS_MAX = 2 ** 46;
const PAGE_BYTES = 4096;
const MAC = /^[0-9a-f]{2}(?::[0-9a-f]{2}){5}$/i;

/** @throws {ProtocolError} GUEST_ANSWER. */
export function parseMemory(entries: unknown, blocks: readonly RamBlock[], wrong: Wrong): readonly MemoryRun[] {
  return listOf(entries, RUNS_MAX, "memory runs", wrong).map((entry, at) => {
    const { block, offset, guestAddress, bytes } = entry;
    const owner = isWhole(block, 0, blocks.length - 1) ? blocks[block]! : null;
    const isPlaced =
      owner !== null &&
      isPages(bytes, owner.lengthBytes) &&
      isPages(offset, owner.lengthBytes - bytes) &&
      isPages(guestAddress, GUEST_ADDRESS_MAX - bytes);
    if (!isPlaced) throw wrong(`a memory run ${at} that makes no sense: ${JSON.stringify(entry)}`);
    return { block: block as number, offsetBytes: offset, guestAddress, lengthBytes: bytes };
  });
}

/** @throws {ProtocolError} GUEST_ANSWER. */
export function parseDevices(entries: unknown, blocks: number, wrong: Wrong): readonly GuestDevice[] {
  let at = blocks; // descriptors: those of the RAM come first
  const devices = listOf(entries, DEVICES_MAX, "devices", wrong).map((entry) => {
    const { name, features, rings, connection, mac = null } = entry;
    const bits = parseBits(features);
    if (typeof name !== "string" || !/^[\w.-]{1,64}$/.test(name) || bits === null) {
      throw wrong(`a device that makes no sense: ${JSON.stringify(entry)}`);
    }
    if (mac !== null && !(typeof mac === "string" && MAC.test(mac))) throw wrong(`no MAC address for device "${name}"`);
    const parsed = listOf(rings, RINGS_MAX, `rings of device "${name}"`, wrong).map((ring) => parseRing(ring, wrong));
    const events = parsed.map(() => ({ kick: at++, call: at++ }));
    return {
      name,
      features: bits,
      rings: parsed.map(({ base: _, ...ring }) => ring),
      bases: parsed.map(({ base }) => base),
      events,
      mac: mac === null ? null : Buffer.from(mac.replaceAll(":", ""), "hex"),
      connection: (connection ?? null) === null ? null : { ...parseConnection(connection, name, wrong), at: at++ },
    };
  });
  if (new Set(devices.map(({ name }) => name)).size !== devices.length) throw wrong("two devices of one name");
  return devices;
}

/** Descriptors that come with a description of these. */
export function countDescriptors(blocks: number, devices: readonly GuestDevice[]): number {
  return devices.reduce((sum, { rings, connection }) => sum + 2 * rings.length + (connection ? 1 : 0), blocks);
}

function parseRing(entry: Record<string, unknown>, wrong: Wrong): Ring & { readonly base: number } {
  const { index, size, descriptors = 0, available = 0, used = 0, base = 0 } = entry;
  const isPlaced = [descriptors, available, used].every((address) => isWhole(address, 0, GUEST_ADDRESS_MAX));
  const isSized = isWhole(size, 1, RING_SIZE_MAX) && (size & (size - 1)) === 0;
  if (!isPlaced || !isSized || !isWhole(index, 0, RINGS_MAX - 1) || !isWhole(base, 0, 65_535)) {
    throw wrong(`a ring that makes no sense: ${JSON.stringify(entry)}`);
  }
  return {
    index,
    size,
    base,
    ...({ descriptors, available, used } as Record<"descriptors" | "available" | "used", number>),
  };
}

function parseConnection(entry: unknown, name: string, wrong: Wrong): Negotiated {
  const { offered, protocolFeatures } = (entry ?? {}) as Record<string, unknown>;
  const [device, protocol] = [parseBits(offered), parseBits(protocolFeatures)];
  if (device === null || protocol === null) throw wrong(`a connection of device "${name}" without what was agreed on`);
  return { offered: device, protocolFeatures: protocol };
}

function parseBits(value: unknown): bigint | null {
  return typeof value === "string" && /^0x[0-9a-f]{1,16}$/i.test(value) ? BigInt(value) : null;
}

function listOf(entries: unknown, max: number, what: string, wrong: Wrong): readonly Record<string, unknown>[] {
  const isList = Array.isArray(entries) && entries.length <= max;
  if (!isList || !entries.every((entry: unknown) => typeof entry === "object" && entry !== null)) {
    throw wrong(`no list of up to ${max} ${what}`);
  }
  return entries as readonly Record<string, unknown>[];
}

function isPages(value: unknown, max: number): value is number {
  return isWhole(value, 0, max) && value % PAGE_BYTES === 0;
}
