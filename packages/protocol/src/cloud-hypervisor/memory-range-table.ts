/**
 * Memory range tables: which guest-physical ranges a Memory command carries.
 *
 * A table is kept as the wire has it, 16 bytes a range, for a round may have
 * millions of them: they are appended, cut into chunks and looked up without an
 * object per range. Addresses are exact up to 2^64; what lies in RAM is below
 * 2^53, so the fast ways use numbers and the exact ones bigints.
 *
 * A table promises nothing: ranges may repeat, overlap, be empty or unsorted.
 * Source: Cloud Hypervisor 25.0 to 53.0, vm-migration/src/protocol.rs, MemoryRangeTable.
 */
import { ProtocolError } from "../errors.js";

export const MEMORY_RANGE_BYTES = 16;

export type MemoryRange = { readonly gpa: bigint; readonly lengthBytes: bigint };

/** What a reader of the whole table is told, by numbers where they hold. */
export type RangeNumbers = { gpa: number; lengthBytes: number };

const U64_END = 1n << 64n;
const FIRST_RANGES = 64;

export class MemoryRangeTable implements Iterable<MemoryRange> {
  #bytes: Uint8Array<ArrayBuffer>;
  #view: DataView;
  #count: number;

  private constructor(bytes: Uint8Array<ArrayBuffer>, count: number) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.#count = count;
  }

  static empty(): MemoryRangeTable {
    return new MemoryRangeTable(new Uint8Array(FIRST_RANGES * MEMORY_RANGE_BYTES), 0);
  }

  static of(ranges: Iterable<MemoryRange>): MemoryRangeTable {
    const table = MemoryRangeTable.empty();
    for (const { gpa, lengthBytes } of ranges) table.append(gpa, lengthBytes);
    return table;
  }

  /**
   * A table as it came; the bytes are not copied. Its ranges are still to be judged.
   *
   * @throws {ProtocolError} RANGE_TABLE_LENGTH, for bytes that are no whole number of ranges.
   */
  static fromWire(bytes: Uint8Array<ArrayBuffer>): MemoryRangeTable {
    checkRangeTableLength(bytes.length);
    return new MemoryRangeTable(bytes, bytes.length / MEMORY_RANGE_BYTES);
  }

  get count(): number {
    return this.#count;
  }

  /** The wire form; good until the next `append`. */
  get bytes(): Uint8Array<ArrayBuffer> {
    return this.#bytes.subarray(0, this.#count * MEMORY_RANGE_BYTES);
  }

  /** @throws {RangeError} for a range that passes 2^64. */
  append(gpa: number | bigint, lengthBytes: number | bigint): void {
    if (typeof gpa === "bigint" && gpa + BigInt(lengthBytes) > U64_END)
      throw new RangeError(`a range of ${lengthBytes} bytes at ${gpa} passes 2^64`);
    const at = this.#count * MEMORY_RANGE_BYTES;
    if (at === this.#bytes.length) this.#grow();
    this.#put(at, gpa);
    this.#put(at + 8, lengthBytes);
    this.#count++;
  }

  /** Range number `index`, exact. */
  at(index: number): MemoryRange {
    const at = index * MEMORY_RANGE_BYTES;
    return { gpa: this.#view.getBigUint64(at, true), lengthBytes: this.#view.getBigUint64(at + 8, true) };
  }

  /** Range number `index` as numbers, for loops. @returns false where they would not be exact; it cannot lie in RAM then. */
  readNumbers(index: number, out: RangeNumbers): boolean {
    const at = index * MEMORY_RANGE_BYTES;
    const view = this.#view;
    out.gpa = view.getUint32(at + 4, true) * 2 ** 32 + view.getUint32(at, true);
    out.lengthBytes = view.getUint32(at + 12, true) * 2 ** 32 + view.getUint32(at + 8, true);
    return out.gpa + out.lengthBytes <= Number.MAX_SAFE_INTEGER;
  }

  /** Bytes of guest RAM that the table announces; may pass 2^64. */
  totalBytes(): bigint {
    let total = 0n;
    for (const { lengthBytes } of this) total += lengthBytes;
    return total;
  }

  *[Symbol.iterator](): Generator<MemoryRange> {
    for (let index = 0; index < this.#count; index++) yield this.at(index);
  }

  #put(at: number, value: number | bigint): void {
    if (typeof value === "bigint") {
      this.#view.setBigUint64(at, value, true);
      return;
    }
    this.#view.setUint32(at, value, true); // stores modulo 2^32
    this.#view.setUint32(at + 4, value / 2 ** 32, true);
  }

  #grow(): void {
    const bytes = new Uint8Array(Math.max(FIRST_RANGES * MEMORY_RANGE_BYTES, this.#bytes.length * 2));
    bytes.set(this.#bytes);
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer);
  }
}

/** @throws {ProtocolError} RANGE_TABLE_LENGTH. */
export function checkRangeTableLength(bytes: number): void {
  if (bytes % MEMORY_RANGE_BYTES !== 0)
    throw new ProtocolError(
      "RANGE_TABLE_LENGTH",
      `a memory range table has ${bytes} bytes, a multiple of ${MEMORY_RANGE_BYTES} was due`,
    );
}
