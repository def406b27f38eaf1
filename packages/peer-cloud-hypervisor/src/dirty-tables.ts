/**
 * Dirty tables: what a pass over guest RAM sends, as range tables.
 *
 * Source: Cloud Hypervisor 52.0, vmm/src/memory_manager.rs, memory_range_table() and dirty_log().
 */
import type { RamSource } from "@multifd/engine";
import type { DirtyBitmap } from "@multifd/memory";
import { seekData, seekHole } from "@multifd/native";
import { appendDirtyBitmap, MemoryRangeTable } from "@multifd/protocol";
import type { MemoryMap } from "./memory-map.js";

/** Everything: a range per RAM block. */
export function wholeRam(map: MemoryMap): MemoryRangeTable {
  const table = MemoryRangeTable.empty();
  for (const { gpa, block } of map.blocks) table.append(gpa, block.lengthBytes);
  return table;
}

/**
 * What the RAM files have storage for; what they lack reads as zero at the destination, too.
 *
 * @param ram  As the map's blocks. A file whose holes cannot be told goes as a whole.
 */
export function allocatedRam(map: MemoryMap, ram: readonly RamSource[]): MemoryRangeTable {
  const table = MemoryRangeTable.empty();
  for (const [index, { gpa }] of map.blocks.entries()) {
    for (const [offset, bytes] of allocatedExtents(ram[index]!)) table.append(gpa + offset, bytes);
  }
  return table;
}

function* allocatedExtents({
  descriptor,
  offsetBytes,
  block,
}: RamSource): Generator<readonly [offset: number, bytes: number]> {
  const { lengthBytes, pageBytes } = block;
  const end = offsetBytes + lengthBytes;
  for (let at = offsetBytes; at < end; ) {
    const extent = findExtent(descriptor, at);
    if (extent === "unknown") {
      yield [at - offsetBytes, end - at];
      return;
    }
    if (extent === null || extent.from >= end) return;
    // Extents of a file system with small blocks may begin inside a page.
    const from = extent.from - ((extent.from - offsetBytes) % pageBytes);
    const to = Math.min(end, offsetBytes + Math.ceil((extent.to - offsetBytes) / pageBytes) * pageBytes);
    yield [from - offsetBytes, to - from];
    at = to;
  }
}

function findExtent(descriptor: number, at: number): { readonly from: number; readonly to: number } | null | "unknown" {
  try {
    const from = seekData(descriptor, at);
    return from === null ? null : { from, to: seekHole(descriptor, from) };
  } catch {
    return "unknown"; // hugetlbfs does not tell
  }
}

/** A range for every run of dirty pages. */
export function dirtyRam(map: MemoryMap, dirty: readonly DirtyBitmap[]): MemoryRangeTable {
  const table = MemoryRangeTable.empty();
  for (const [index, { gpa, block }] of map.blocks.entries())
    appendDirtyBitmap(table, dirty[index]!.words, BigInt(gpa), block.pageBytes);
  return table;
}
