/**
 * Saved memory: what the memory manager says in a State of the guest's RAM.
 *
 * `memory_ranges` names the runs of RAM that a snapshot's file holds, one behind the other in
 * this order. RAM that has a file of its own with a name is left out by Cloud Hypervisor, since
 * that file holds it; so are virtio-mem blocks that the guest has not plugged in.
 * Source: Cloud Hypervisor 25.0 to 53.0, vmm/src/memory_manager.rs, MemoryManagerSnapshotData, fill_saved_regions().
 */
import { ProtocolError } from "../errors.js";
import { JsonMembers, type JsonValue } from "../json-text.js";
import type { MemoryRange } from "./memory-range-table.js";
import { findStateNode, parseStateText, type StateData, type StateNode } from "./state-tree.js";
import { versionedMemoryJson } from "./versioned-memory.js";

/** A run of guest RAM that the VM has, whether or not its bytes are saved. */
export type SavedMapping = MemoryRange & {
  readonly zone: string;
  /** Memory that comes and goes: what of it is not plugged in is not saved. */
  readonly virtioMem: boolean;
};

export type SavedMemory = {
  /** In the order of the snapshot's file; each at least one byte, none overlaps another. */
  readonly ranges: readonly MemoryRange[];
  readonly mappings: readonly SavedMapping[];
  /** All of it as JSON text: exactly the component's own from 39.0 on. */
  readonly text: string;
};

/** Cloud Hypervisor's own list of 64-bit pairs would be 16 MiB then; virtio-mem's come in blocks of 2 MiB. */
const RANGES_MAX = 1_048_576;
const MAPPINGS_MAX = 4096;
const U64_END = 1n << 64n;

/**
 * Reads what the memory manager saved.
 *
 * @throws {ProtocolError} MEMORY_DATA, for a State without it, ranges that overlap or pass 2^64; JSON_SYNTAX.
 */
export function readSavedMemory(root: StateNode): SavedMemory {
  const [data] = findStateNode(root, "memory-manager")?.data ?? [];
  if (data === undefined) throw wrong("it has no memory-manager that saved anything");
  const text = memoryText(data);
  const value = parseStateText(text, "the memory manager's state");
  const ranges = list(member(member(value, "memory_ranges"), "data"), "memory_ranges", RANGES_MAX).map((range, i) =>
    readRange(range, "length", `memory_ranges[${i}]`),
  );
  const mappings = list(member(value, "guest_ram_mappings"), "guest_ram_mappings", MAPPINGS_MAX).map((mapping, i) => ({
    ...readRange(mapping, "size", `guest_ram_mappings[${i}]`),
    zone: zoneOf(mapping),
    virtioMem: member(mapping, "virtio_mem") === true,
  }));
  checkApart(ranges, "memory_ranges");
  checkApart(mappings, "guest_ram_mappings");
  return { ranges, mappings, text };
}

/** RAM of the VM that the ranges leave out, ascending; empty where they hold everything that counts. */
export function unsavedRam({ ranges, mappings }: SavedMemory): readonly MemoryRange[] {
  const saved = ascending(ranges);
  const left: MemoryRange[] = [];
  let next = 0;
  for (const { gpa, lengthBytes } of ascending(mappings.filter(({ virtioMem }) => !virtioMem))) {
    const end = gpa + lengthBytes;
    let at = gpa;
    while (next < saved.length && endOf(saved[next]!) <= at) next++;
    for (let i = next; at < end; i++) {
      const range = saved[i];
      const until = range === undefined || range.gpa > end ? end : range.gpa;
      if (until > at) left.push({ gpa: at, lengthBytes: until - at });
      at = range === undefined ? end : endOf(range);
    }
  }
  return left;
}

function memoryText({ content }: StateData): string {
  return typeof content === "string" ? content : versionedMemoryJson(content);
}

function readRange(value: JsonValue, length: "length" | "size", where: string): MemoryRange {
  const range = {
    gpa: u64(member(value, "gpa"), `${where}.gpa`),
    lengthBytes: u64(member(value, length), `${where}.${length}`),
  };
  if (range.lengthBytes === 0n) throw wrong(`${where} is empty`);
  if (endOf(range) > U64_END) throw wrong(`${where} passes 2^64`);
  return range;
}

function checkApart(ranges: readonly MemoryRange[], name: string): void {
  let end = 0n;
  for (const range of ascending(ranges)) {
    if (range.gpa < end) throw wrong(`${name} overlap at 0x${range.gpa.toString(16)}`);
    end = endOf(range);
  }
}

function ascending<Range extends MemoryRange>(ranges: readonly Range[]): Range[] {
  return ranges.toSorted((a, b) => (a.gpa < b.gpa ? -1 : a.gpa > b.gpa ? 1 : 0));
}

function endOf({ gpa, lengthBytes }: MemoryRange): bigint {
  return gpa + lengthBytes;
}

function member(value: JsonValue | undefined, key: string): JsonValue | undefined {
  return value instanceof JsonMembers ? value.last(key) : undefined;
}

function zoneOf(mapping: JsonValue): string {
  const zone = member(mapping, "zone_id");
  return typeof zone === "string" ? zone : "";
}

function list(value: JsonValue | undefined, name: string, max: number): readonly JsonValue[] {
  if (!Array.isArray(value)) throw wrong(`it has no list ${name}`);
  if (value.length <= max) return value as readonly JsonValue[];
  throw wrong(`${name} has ${value.length} entries, at most ${max} are taken`);
}

function u64(value: JsonValue | undefined, where: string): bigint {
  const exact = typeof value === "number" && Number.isSafeInteger(value) ? BigInt(value) : value;
  if (typeof exact === "bigint" && exact >= 0n && exact < U64_END) return exact;
  throw wrong(
    `${where} is ${typeof exact === "object" ? "a structure" : String(exact)}, an integer from 0 to 2^64 - 1 was due`,
  );
}

function wrong(what: string): ProtocolError {
  return new ProtocolError("MEMORY_DATA", `the memory manager's state: ${what}; is it one of Cloud Hypervisor's?`);
}
