/**
 * Memory configuration: where guest RAM lies, as a migration's Config tells it.
 *
 * Config is JSON that belongs to Cloud Hypervisor and is forwarded byte for byte;
 * only the memory manager's part is looked into, by a reader that keeps 64-bit
 * integers exact. `guest_ram_mappings` is what both versions of the protocol are
 * set up from; where it is missing, `memory_ranges` tells at least the addresses.
 * Source: Cloud Hypervisor 28.0 to 53.0, vmm/src/memory_manager.rs, MemoryManagerSnapshotData.
 */
import { ProtocolError } from "../errors.js";
import { JsonMembers, type JsonValue, parseJsonText } from "../json-text.js";
import { decodeText } from "../wire-text.js";

/** One run of guest RAM. */
export type MemoryMapping = {
  readonly gpa: bigint;
  readonly lengthBytes: bigint;
  /** The memory slot that a MemoryFd names; null where the configuration has none. */
  readonly slot: number | null;
  /** Identifier of the memory zone that it belongs to; empty where the configuration has none. */
  readonly zone: string;
  /** Where it begins in the file behind its slot. */
  readonly fileOffsetBytes: bigint;
};

/** Real ones have some thousand values; CPU features make up the most of it. */
const LIMITS = { charactersMax: 64 * 2 ** 20, depthMax: 64, valuesMax: 4_000_000 } as const;
/** Zones, their two halves, and pluggable devices: dozens at most. */
const MAPPINGS_MAX = 4096;
const U64_END = 1n << 64n;

/**
 * Reads the memory mappings of a Config, in its order.
 *
 * @throws {ProtocolError} CONFIG_JSON, CONFIG_MEMORY.
 */
export function readMemoryMappings(config: Uint8Array): readonly MemoryMapping[] {
  const manager = member(parseConfig(config), "memory_manager_data");
  if (!(manager instanceof JsonMembers)) throw wrong("it has no memory_manager_data");
  const mappings = list(manager.last("guest_ram_mappings"), "guest_ram_mappings").map(readMapping);
  const found = mappings.length > 0 ? mappings : readRanges(manager);
  if (found.length === 0) throw wrong("neither guest_ram_mappings nor memory_ranges names any RAM");
  checkApart(found);
  return found;
}

function parseConfig(config: Uint8Array): JsonValue {
  try {
    return parseJsonText(decodeText(config, "Config"), LIMITS);
  } catch (cause) {
    throw new ProtocolError("CONFIG_JSON", `Config cannot be read: ${(cause as Error).message}`, { cause });
  }
}

function readMapping(value: JsonValue, index: number): MemoryMapping {
  const where = `guest_ram_mappings[${index}]`;
  const zone = member(value, "zone_id");
  return {
    gpa: u64(member(value, "gpa"), `${where}.gpa`),
    lengthBytes: u64(member(value, "size"), `${where}.size`),
    slot: Number(u32(member(value, "slot"), `${where}.slot`)),
    zone: typeof zone === "string" ? zone : "",
    fileOffsetBytes: u64(member(value, "file_offset") ?? 0, `${where}.file_offset`),
  };
}

function readRanges(manager: JsonMembers): MemoryMapping[] {
  const data = list(member(manager.last("memory_ranges"), "data"), "memory_ranges.data");
  return data.map((value, index) => ({
    gpa: u64(member(value, "gpa"), `memory_ranges.data[${index}].gpa`),
    lengthBytes: u64(member(value, "length"), `memory_ranges.data[${index}].length`),
    slot: null,
    zone: "",
    fileOffsetBytes: 0n,
  }));
}

/** RAM that lies twice at one address has no meaning, and would be written by two files. */
function checkApart(mappings: readonly MemoryMapping[]): void {
  const sorted = mappings.toSorted((a, b) => (a.gpa < b.gpa ? -1 : a.gpa > b.gpa ? 1 : 0));
  let end = 0n;
  for (const { gpa, lengthBytes, fileOffsetBytes } of sorted) {
    if (lengthBytes === 0n) throw wrong(`the mapping at 0x${gpa.toString(16)} is empty`);
    if (gpa < end) throw wrong(`two mappings overlap at 0x${gpa.toString(16)}`);
    end = gpa + lengthBytes;
    if (end > U64_END || fileOffsetBytes + lengthBytes > U64_END)
      throw wrong(`the mapping at 0x${gpa.toString(16)} passes 2^64`);
  }
}

function member(value: JsonValue | undefined, key: string): JsonValue | undefined {
  return value instanceof JsonMembers ? value.last(key) : undefined;
}

function list(value: JsonValue | undefined, name: string): readonly JsonValue[] {
  if (!Array.isArray(value)) return [];
  if (value.length <= MAPPINGS_MAX) return value as readonly JsonValue[];
  throw wrong(`${name} has ${value.length} entries, at most ${MAPPINGS_MAX} are taken`);
}

function u64(value: JsonValue | undefined, where: string): bigint {
  const exact = typeof value === "number" && Number.isSafeInteger(value) ? BigInt(value) : value;
  if (typeof exact === "bigint" && exact >= 0n && exact < U64_END) return exact;
  throw wrong(`${where} is ${String(value)}, an integer from 0 to 2^64 - 1 was due`);
}

function u32(value: JsonValue | undefined, where: string): bigint {
  const number = u64(value, where);
  if (number < 1n << 32n) return number;
  throw wrong(`${where} is ${number}, at most 2^32 - 1 was due`);
}

function wrong(what: string): ProtocolError {
  return new ProtocolError("CONFIG_MEMORY", `Config: ${what}; is it one of Cloud Hypervisor's?`);
}
