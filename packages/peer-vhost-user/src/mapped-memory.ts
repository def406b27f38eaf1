/**
 * Mapped memory: the guest's memory as a back-end has it, and the log of what it writes there.
 *
 * A device names guest-physical addresses; rings come in the front-end's own, which
 * are translated once. Every address is held to the regions told: a guest or
 * front-end that lies gets a ProtocolError, not our memory. Every write marks its pages,
 * after the bytes and by an atomic OR, while logging is on.
 *
 * Owns the mappings; descriptors handed in are closed here.
 */
import { fstatSync } from "node:fs";
import {
  closeDescriptor,
  loadIndex,
  type Mapping,
  mapFile,
  markPages,
  readMemory,
  storeIndex,
  unmap,
  writeMemory,
} from "@multifd/native";
import { ProtocolError } from "@multifd/protocol";
import { LOG_PAGE_BYTES } from "./dirty-log.js";

export type ToldRegion = {
  readonly guestAddress: number;
  readonly lengthBytes: number;
  readonly userAddress: number;
  readonly offsetBytes: number;
};

type MappedRegion = ToldRegion & { readonly mapping: Mapping };

/** QEMU itself stops at 509. */
export const MEMORY_SLOTS = 509;

export class MappedMemory {
  #regions: readonly MappedRegion[] = [];
  #log: Mapping | null = null;
  /** Feature LOG_ALL. */
  isLogging = false;

  /** Takes a whole table in place of what was told before. */
  replace(regions: readonly ToldRegion[], descriptors: readonly number[]): void {
    const mapped: MappedRegion[] = [];
    try {
      for (const [at, region] of regions.entries()) mapped.push(mapRegion(region, descriptors[at]!));
    } catch (error) {
      for (const region of mapped) unmap(region.mapping);
      throw error;
    } finally {
      for (const descriptor of descriptors) closeDescriptor(descriptor);
    }
    for (const region of this.#regions) unmap(region.mapping);
    this.#regions = mapped;
  }

  /** @throws {ProtocolError} VHOST_MEMORY, if it overlaps another or all slots are taken. */
  add(region: ToldRegion, descriptor: number): void {
    try {
      const overlaps = this.#regions.some(
        (other) =>
          region.guestAddress < other.guestAddress + other.lengthBytes &&
          other.guestAddress < region.guestAddress + region.lengthBytes,
      );
      if (overlaps || this.#regions.length >= MEMORY_SLOTS) throw outside(region.guestAddress, region.lengthBytes);
      this.#regions = [...this.#regions, mapRegion(region, descriptor)];
    } finally {
      closeDescriptor(descriptor);
    }
  }

  /** @throws {ProtocolError} VHOST_MEMORY, if there is none like it. */
  remove(region: ToldRegion): void {
    const found = this.#regions.find(
      (other) =>
        other.guestAddress === region.guestAddress &&
        other.lengthBytes === region.lengthBytes &&
        other.userAddress === region.userAddress,
    );
    if (found === undefined) throw outside(region.guestAddress, region.lengthBytes);
    this.#regions = this.#regions.filter((other) => other !== found);
    unmap(found.mapping);
  }

  /**
   * Takes a log in place of the one before.
   *
   * @throws {ProtocolError} VHOST_LOG_SIZE, if it does not cover all memory: marking would then be skipped, and
   *   the page lost.
   */
  setLog(log: { readonly lengthBytes: number; readonly offsetBytes: number }, descriptor: number): void {
    try {
      const end = Math.max(0, ...this.#regions.map((region) => region.guestAddress + region.lengthBytes));
      const due = Math.ceil(end / (8 * LOG_PAGE_BYTES));
      if (log.lengthBytes < due) {
        throw new ProtocolError(
          "VHOST_LOG_SIZE",
          `a log of ${log.lengthBytes} bytes came, memory up to 0x${end.toString(16)} needs ${due}`,
        );
      }
      const mapping = mapTold(descriptor, log);
      if (this.#log) unmap(this.#log);
      this.#log = mapping;
    } finally {
      closeDescriptor(descriptor);
    }
  }

  /** A ring's address, as the front-end tells it, in guest memory. @throws {ProtocolError} VHOST_MEMORY. */
  guestAddressOf(userAddress: number, bytes: number): number {
    for (const region of this.#regions) {
      const offset = userAddress - region.userAddress;
      if (offset >= 0 && offset + bytes <= region.lengthBytes) return region.guestAddress + offset;
    }
    throw outside(userAddress, bytes);
  }

  /** @throws {ProtocolError} VHOST_MEMORY. */
  read(guestAddress: number, out: Uint8Array): void {
    this.#spans(guestAddress, out.length, (region, offset, from, bytes) =>
      readMemory(region.mapping, offset, out.subarray(from, from + bytes)),
    );
  }

  /** @throws {ProtocolError} VHOST_MEMORY. */
  write(guestAddress: number, bytes: Uint8Array): void {
    this.#spans(guestAddress, bytes.length, (region, offset, from, count) =>
      writeMemory(region.mapping, offset, bytes.subarray(from, from + count)),
    );
    this.mark(guestAddress, bytes.length);
  }

  /** Loads a ring's index; what was published before it is visible then. */
  loadIndex(guestAddress: number): number {
    const [region, offset] = this.#find(guestAddress, 2);
    return loadIndex(region.mapping, offset);
  }

  /** Publishes a ring's index. Its page is for the ring to mark, which may be logged elsewhere. */
  storeIndex(guestAddress: number, value: number): void {
    const [region, offset] = this.#find(guestAddress, 2);
    storeIndex(region.mapping, offset, value);
  }

  /** Writes without marking: a ring that is logged at an address of its own, or not at all. */
  writeUnmarked(guestAddress: number, bytes: Uint8Array): void {
    const [region, offset] = this.#find(guestAddress, bytes.length);
    writeMemory(region.mapping, offset, bytes);
  }

  /** Marks pages as written, where a log is kept. @throws {ProtocolError} VHOST_LOG_SIZE. */
  mark(address: number, bytes: number): void {
    if (!this.isLogging || this.#log === null || bytes === 0) return;
    const first = Math.floor(address / LOG_PAGE_BYTES);
    const count = Math.floor((address + bytes - 1) / LOG_PAGE_BYTES) - first + 1;
    if (first + count > this.#log.lengthBytes * 8) {
      throw new ProtocolError(
        "VHOST_LOG_SIZE",
        `a write at 0x${address.toString(16)} lies past the end of the dirty log of ${this.#log.lengthBytes} bytes`,
      );
    }
    markPages(this.#log, first, count);
  }

  close(): void {
    this.replace([], []);
    if (this.#log) unmap(this.#log);
    this.#log = null;
  }

  #find(guestAddress: number, bytes: number): readonly [region: MappedRegion, offset: number] {
    for (const region of this.#regions) {
      const offset = guestAddress - region.guestAddress;
      if (offset >= 0 && offset + bytes <= region.lengthBytes) return [region, offset];
    }
    throw outside(guestAddress, bytes);
  }

  /** Walks a range that may go over from one region into the next. */
  #spans(
    guestAddress: number,
    bytes: number,
    act: (region: MappedRegion, offset: number, from: number, bytes: number) => void,
  ): void {
    for (let from = 0; from < bytes; ) {
      const [region, offset] = this.#find(guestAddress + from, 1);
      const count = Math.min(bytes - from, region.lengthBytes - offset);
      act(region, offset, from, count);
      from += count;
    }
  }
}

function mapRegion(region: ToldRegion, descriptor: number): MappedRegion {
  // Offsets in a region are as even as addresses then, which rings count on.
  const isAligned = region.guestAddress % LOG_PAGE_BYTES === 0 && region.userAddress % LOG_PAGE_BYTES === 0;
  if (!isAligned) throw outside(region.guestAddress, region.lengthBytes);
  return { ...region, mapping: mapTold(descriptor, region) };
}

/** Maps what a front-end has told, which must lie in its file: touching what lies behind would kill us. */
function mapTold(descriptor: number, told: { readonly lengthBytes: number; readonly offsetBytes: number }): Mapping {
  const { lengthBytes, offsetBytes } = told;
  const { size } = fstatSync(descriptor);
  if (lengthBytes > 0 && offsetBytes + lengthBytes <= size) {
    return mapFile(descriptor, { lengthBytes, offsetBytes, writable: true });
  }
  throw new ProtocolError(
    "VHOST_MEMORY",
    `${lengthBytes} bytes from ${offsetBytes} of a file of ${size} bytes are to be mapped`,
  );
}

function outside(address: number, bytes: number): ProtocolError {
  return new ProtocolError(
    "VHOST_MEMORY",
    `${bytes} bytes at 0x${address.toString(16)} do not fit the memory that was told`,
  );
}
