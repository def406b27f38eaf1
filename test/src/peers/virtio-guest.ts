/**
 * Virtio guest: memory and rings of a guest that is nobody but the test.
 *
 * Memory is a file in which addresses are guest-physical, possibly with holes; the
 * driver's side of a split virtqueue is written and read through that file, so
 * every byte the back-end changes can be looked at. Used entries are awaited on the call
 * event, never by time.
 */
import { closeSync, readSync, writeSync } from "node:fs";
import {
  closeDescriptor,
  createEvent,
  createMemfd,
  type Mapping,
  pollReadable,
  signalEvent,
  takeEvent,
  writeMemory,
} from "@multifd/native";
import type { MemoryRegion, Ring } from "@multifd/peer-vhost-user";

const NEXT = 1;
const WRITE = 2;
const ANSWER_TIMEOUT_MS = 20_000;
const POLL_MS = 100;

/** A run of guest-physical addresses; runs follow each other in one memory file. */
export type RamRun = { readonly guestAddress: number; readonly lengthBytes: number };

export class GuestMemory {
  readonly descriptor: number;
  readonly lengthBytes: number;
  readonly regions: readonly MemoryRegion[];
  /** A bit per 4096-byte page of the file that was written through here: what the processors of a guest dirty. */
  readonly written: SharedArrayBuffer;
  /** Where the file is mapped, if writes are to go through there; the owner's of the mapping. */
  mapping: Mapping | null = null;

  /** @param descriptor  A memory file that holds the runs already, owned from here on; made if left out. */
  constructor(runs: readonly RamRun[], descriptor?: number) {
    this.lengthBytes = runs.reduce((sum, run) => sum + run.lengthBytes, 0);
    this.descriptor = descriptor ?? createMemfd("guest", this.lengthBytes);
    this.written = new SharedArrayBuffer(Math.ceil(this.lengthBytes / 4096 / 64) * 8);
    let offsetBytes = 0;
    this.regions = runs.map((run) => {
      const region = { ...run, descriptor: this.descriptor, offsetBytes };
      offsetBytes += run.lengthBytes;
      return region;
    });
  }

  read(guestAddress: number, bytes: number): Buffer {
    const out = Buffer.alloc(bytes);
    readSync(this.descriptor, out, 0, bytes, this.#offsetOf(guestAddress, bytes));
    return out;
  }

  write(guestAddress: number, bytes: Uint8Array): void {
    const offset = this.#offsetOf(guestAddress, bytes.length);
    if (this.mapping) writeMemory(this.mapping, offset, bytes);
    else writeSync(this.descriptor, bytes, 0, bytes.length, offset);
    const words = new Int32Array(this.written);
    for (let page = offset >>> 12; page <= (offset + bytes.length - 1) >>> 12; page++) {
      Atomics.or(words, page >>> 5, 1 << (page & 31));
    }
  }

  /** The whole file. */
  content(): Buffer {
    const out = Buffer.alloc(this.lengthBytes);
    readSync(this.descriptor, out, 0, this.lengthBytes, 0);
    return out;
  }

  close(): void {
    closeSync(this.descriptor);
  }

  #offsetOf(guestAddress: number, bytes: number): number {
    const region = this.regions.find(
      (each) => guestAddress >= each.guestAddress && guestAddress + bytes <= each.guestAddress + each.lengthBytes,
    );
    if (!region) throw new RangeError(`guest address 0x${guestAddress.toString(16)} is not in its memory`);
    return guestAddress - region.guestAddress + region.offsetBytes;
  }
}

export type Buffers = {
  /** What the device reads: guest address and bytes each. */
  readonly out: readonly (readonly [address: number, bytes: number])[];
  /** What it writes. */
  readonly in: readonly (readonly [address: number, bytes: number])[];
};

export type DriverState = {
  readonly availableIndex: number;
  readonly usedIndex: number;
  readonly free: readonly number[];
};

/** The driver's side of one virtqueue. Descriptors are used from 0 on and given back with each answer. */
export class DriverQueue {
  readonly ring: Ring;
  readonly kick = createEvent();
  readonly call = createEvent();
  #memory: GuestMemory;
  #availableIndex = 0;
  #usedIndex = 0;
  #hasGivenUp = false;
  #free: number[];

  /** @param at  Guest address of three pages: descriptors, available ring, used ring. */
  constructor(memory: GuestMemory, index: number, at: number, size: number) {
    this.#memory = memory;
    this.ring = { index, size, descriptors: at, available: at + 4096, used: at + 8192 };
    this.#free = Array.from({ length: size }, (_, i) => i);
  }

  get events(): { readonly kick: number; readonly call: number } {
    return { kick: this.kick, call: this.call };
  }

  /** Goes on in other memory where another driver of the same ring was; the events stay its own. */
  moveTo(memory: GuestMemory, from: DriverQueue): this {
    this.#memory = memory;
    this.load(from.save());
    return this;
  }

  /** Where its driver stands, as `load` takes it. */
  save(): DriverState {
    return { availableIndex: this.#availableIndex, usedIndex: this.#usedIndex, free: [...this.#free] };
  }

  load(state: DriverState): void {
    this.#availableIndex = state.availableIndex;
    this.#usedIndex = state.usedIndex;
    this.#free = [...state.free];
  }

  /** Makes a chain available and kicks. @returns its head. */
  submit(buffers: Buffers): number {
    const parts = [
      ...buffers.out.map(([address, bytes]) => ({ address, bytes, flags: 0 })),
      ...buffers.in.map(([address, bytes]) => ({ address, bytes, flags: WRITE })),
    ];
    const places = this.#free.splice(0, parts.length);
    if (places.length < parts.length) throw new RangeError("the ring is full");
    for (const [at, { address, bytes, flags }] of parts.entries()) {
      const entry = Buffer.alloc(16);
      entry.writeBigUInt64LE(BigInt(address), 0);
      entry.writeUInt32LE(bytes, 8);
      const next = places[at + 1];
      entry.writeUInt16LE(flags | (next === undefined ? 0 : NEXT), 12);
      entry.writeUInt16LE(next ?? 0, 14);
      this.#memory.write(this.ring.descriptors + 16 * places[at]!, entry);
    }
    this.#memory.write(this.ring.available + 4 + 2 * (this.#availableIndex % this.ring.size), u16(places[0]!));
    this.#availableIndex = (this.#availableIndex + 1) % 65_536;
    this.#memory.write(this.ring.available + 2, u16(this.#availableIndex));
    signalEvent(this.kick);
    return places[0]!;
  }

  /** Waits for the next used chain; its descriptors are free again. @returns bytes the device wrote. */
  async answer(): Promise<{ readonly head: number; readonly bytes: number }> {
    const deadline = Date.now() + ANSWER_TIMEOUT_MS;
    for (;;) {
      takeEvent(this.call);
      if (this.#memory.read(this.ring.used + 2, 2).readUInt16LE(0) !== this.#usedIndex) break;
      if (this.#hasGivenUp || Date.now() > deadline)
        throw new Error(`ring ${this.ring.index}: the device does not answer`);
      await pollReadable([this.call], POLL_MS);
    }
    const entry = this.#memory.read(this.ring.used + 4 + 8 * (this.#usedIndex % this.ring.size), 8);
    this.#usedIndex = (this.#usedIndex + 1) % 65_536;
    const head = entry.readUInt32LE(0);
    this.#release(head);
    return { head, bytes: entry.readUInt32LE(4) };
  }

  /** Whoever waits for an answer fails within a moment. */
  giveUp(): void {
    this.#hasGivenUp = true;
  }

  close(): void {
    closeDescriptor(this.kick);
    closeDescriptor(this.call);
  }

  #release(head: number): void {
    for (let place = head; ; ) {
      const entry = this.#memory.read(this.ring.descriptors + 16 * place, 16);
      this.#free.push(place);
      if ((entry.readUInt16LE(12) & NEXT) === 0) return;
      place = entry.readUInt16LE(14);
    }
  }
}

function u16(value: number): Buffer {
  const bytes = Buffer.alloc(2);
  bytes.writeUInt16LE(value);
  return bytes;
}
