/**
 * Memory map: guest-physical addresses on the wire, RAM blocks here, and the holes between them.
 *
 * One RAM block per mapping of the configuration, named by its zone. Every range
 * that came over a wire passes through here before it becomes an offset: one that
 * leaves RAM is refused, one that runs over the seam of two blocks is cut.
 *
 * Pieces are triples of numbers (block, offset in it, length) in wire order: what
 * a range channel's thread takes.
 */
import { describeRamBlock, type RamBlock } from "@multifd/memory";
import { ConfigError, type MemoryMapping, type MemoryRangeTable, ProtocolError } from "@multifd/protocol";

/** Guest pages, in every bitmap and every table that real sources send. */
export const PAGE_BYTES = 4096;
/** More RAM than this is a damaged configuration rather than a machine. */
const RAM_BYTES_MAX = 2 ** 44;
/** Triples in one order to a thread: 1.5 MiB. */
const PIECES_IN_ORDER = 65_536;

export type MappedBlock = {
  readonly block: RamBlock;
  readonly gpa: number;
  readonly slot: number | null;
  /** Where it begins in the file behind its slot. */
  readonly fileOffsetBytes: number;
};

export class MemoryMap {
  /** In the configuration's order: the index is the block's number. */
  readonly blocks: readonly MappedBlock[];
  readonly ramBytes: number;
  /** Block numbers in the order of their addresses. */
  readonly #ascending: readonly number[];

  /** @throws {ConfigError} MEMORY_MAP, for RAM that cannot be held here. */
  constructor(mappings: readonly MemoryMapping[]) {
    const zones = new Map<string, number>();
    for (const { zone } of mappings) zones.set(zone, (zones.get(zone) ?? 0) + 1);
    this.blocks = mappings.map((mapping) => mapBlock(mapping, zones.get(mapping.zone)! > 1));
    this.ramBytes = this.blocks.reduce((sum, { block }) => sum + block.lengthBytes, 0);
    if (this.ramBytes > RAM_BYTES_MAX) throw tooLarge(`${this.ramBytes} bytes of RAM`);
    this.#ascending = this.blocks.map((_, index) => index).sort((a, b) => this.blocks[a]!.gpa - this.blocks[b]!.gpa);
  }

  /** @throws {ProtocolError} RANGE_OUTSIDE_RAM, naming the first range that leaves RAM. */
  check(table: MemoryRangeTable): void {
    for (const _ of this.#walk(table)) {
      // The walk itself refuses.
    }
  }

  /**
   * Where a table's bytes lie, empty ranges left out, in arrays that a thread can take.
   *
   * @throws {ProtocolError} RANGE_OUTSIDE_RAM.
   */
  *pieces(table: MemoryRangeTable): Generator<Float64Array<ArrayBuffer>> {
    yield* this.#walk(table);
  }

  *#walk(table: MemoryRangeTable): Generator<Float64Array<ArrayBuffer>> {
    const range = { gpa: 0, lengthBytes: 0 };
    let pieces = new Float64Array(3 * Math.min(PIECES_IN_ORDER, table.count + this.blocks.length));
    let filled = 0;
    for (let index = 0; index < table.count; index++) {
      if (!table.readNumbers(index, range)) throw this.#outside(table, index);
      let { gpa, lengthBytes: left } = range;
      while (left > 0) {
        const number = this.#blockAt(gpa);
        if (number < 0) throw this.#outside(table, index);
        const { gpa: start, block } = this.blocks[number]!;
        const step = Math.min(left, start + block.lengthBytes - gpa);
        if (filled === pieces.length) {
          yield pieces;
          pieces = new Float64Array(3 * PIECES_IN_ORDER);
          filled = 0;
        }
        pieces[filled++] = number;
        pieces[filled++] = gpa - start;
        pieces[filled++] = step;
        gpa += step;
        left -= step;
      }
    }
    if (filled > 0) yield pieces.slice(0, filled);
  }

  /** The number of the block at an address; -1 in a hole. */
  #blockAt(gpa: number): number {
    let low = 0;
    let high = this.#ascending.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.blocks[this.#ascending[middle]!]!.gpa <= gpa) low = middle + 1;
      else high = middle;
    }
    if (low === 0) return -1;
    const number = this.#ascending[low - 1]!;
    const { gpa: start, block } = this.blocks[number]!;
    return gpa < start + block.lengthBytes ? number : -1;
  }

  #outside(table: MemoryRangeTable, index: number): ProtocolError {
    const { gpa, lengthBytes } = table.at(index);
    const ram = this.#ascending
      .map((number) => this.blocks[number]!)
      .map(({ gpa: start, block }) => `0x${start.toString(16)} to 0x${(start + block.lengthBytes).toString(16)}`);
    return new ProtocolError(
      "RANGE_OUTSIDE_RAM",
      `range ${index} of a table: 0x${lengthBytes.toString(16)} bytes at 0x${gpa.toString(16)} leave the guest's RAM, which lies at ${ram.join(", ")}`,
    );
  }
}

function mapBlock(mapping: MemoryMapping, isOneOfSeveral: boolean): MappedBlock {
  const { zone, gpa, lengthBytes, slot, fileOffsetBytes } = mapping;
  if (gpa + lengthBytes > RAM_BYTES_END || fileOffsetBytes + lengthBytes > RAM_BYTES_END)
    throw tooLarge(`RAM at 0x${gpa.toString(16)}`);
  const name = zone !== "" && !isOneOfSeveral ? zone : `${zone === "" ? "ram" : zone}@0x${gpa.toString(16)}`;
  const block = describeRamBlock(name, Number(lengthBytes), PAGE_BYTES);
  if (block === null) throw tooLarge(`RAM block "${name}" of ${lengthBytes} bytes, no whole number of pages`);
  return { block, gpa: Number(gpa), slot, fileOffsetBytes: Number(fileOffsetBytes) };
}

/** Addresses stay exact as numbers, sums included. */
const RAM_BYTES_END = 2n ** 52n;

function tooLarge(what: string): ConfigError {
  return new ConfigError("MEMORY_MAP", `the configuration has ${what}, which cannot be held here`);
}
