/**
 * Device queue: the device's side of one split virtqueue.
 *
 * A chain is taken with `pop`, filled, and given back with `push`; `notify` calls
 * the driver once for all of them. Everything in guest memory is the guest's word: an
 * index, a length or a loop that cannot be is a ProtocolError, and the queue is broken then.
 *
 *   driver     descriptors, available ring, its index ──▶ kick
 *   device     pop … push: data, used entry, its index ──▶ call
 *
 * The used ring's pages are marked at the address that the front-end named, if it
 * named one; the data's pages by the memory itself. Owns its event descriptors.
 * Source: virtio 1.3, 2.7.
 */
import { closeDescriptor, signalEvent } from "@multifd/native";
import { ProtocolError } from "@multifd/protocol";
import type { MappedMemory } from "./mapped-memory.js";

const NEXT = 1;
const DEVICE_WRITES = 2;
const INDIRECT = 4;
const NO_CALL = 1;
const DESCRIPTOR_BYTES = 16;
/** Offset of the entries in both rings, behind flags and index. */
const ENTRIES_AT = 4;
const INDEX_AT = 2;
/** What one chain may carry in all. */
const CHAIN_BYTES_MAX = 2 ** 26;

type Part = { readonly address: number; readonly bytes: number };

export type Chain = {
  readonly head: number;
  /** What the driver sends, in order. */
  readonly readable: readonly Part[];
  /** What it wants filled, in order. */
  readonly writable: readonly Part[];
  readonly readableBytes: number;
  readonly writableBytes: number;
};

/** Where a ring lies, in guest addresses. */
export type RingPlace = {
  readonly descriptors: number;
  readonly available: number;
  readonly used: number;
  /** Where writes to the used ring are logged; null: they are not. */
  readonly logAddress: number | null;
};

export class DeviceQueue {
  readonly index: number;
  readonly #memory: MappedMemory;
  #size = 0;
  #place: RingPlace | null = null;
  #nextAvailable = 0;
  #nextUsed = 0;
  #kick: number | null = null;
  #call: number | null = null;
  #isEnabled = false;
  #isStarted = false;
  #pushed = false;

  constructor(index: number, memory: MappedMemory) {
    this.index = index;
    this.#memory = memory;
  }

  get size(): number {
    return this.#size;
  }

  get kick(): number | null {
    return this.#kick;
  }

  /** Whether the device may look into it. */
  get isReady(): boolean {
    return this.#isStarted && this.#isEnabled && this.#place !== null && this.#size > 0;
  }

  get isStarted(): boolean {
    return this.#isStarted;
  }

  setSize(size: number): void {
    if (size < 1 || size > 32_768 || (size & (size - 1)) !== 0)
      throw this.#broken(`${size} entries are no power of two`);
    this.#size = size;
  }

  setBase(base: number): void {
    this.#nextAvailable = base & 0xffff;
  }

  /** May change while the queue runs: a log is told that way. */
  setPlace(place: RingPlace): void {
    this.#place = place;
    this.#nextUsed = this.#memory.loadIndex(place.used + INDEX_AT);
  }

  setKick(descriptor: number | null): void {
    if (this.#kick !== null) closeDescriptor(this.#kick);
    this.#kick = descriptor;
    this.#isStarted = true;
  }

  setCall(descriptor: number | null): void {
    if (this.#call !== null) closeDescriptor(this.#call);
    this.#call = descriptor;
  }

  enable(isEnabled: boolean): void {
    this.#isEnabled = isEnabled;
  }

  /** @returns where it stands; it must be set up anew to go on. */
  stop(): number {
    if (this.#isStarted) {
      this.setKick(null);
      this.setCall(null);
    }
    this.#isStarted = false;
    return this.#nextAvailable;
  }

  /** Gives its descriptors back; a front-end may have gone when it had told the one to call and not yet the other. */
  close(): void {
    this.stop();
    this.setCall(null);
  }

  /** Takes the next chain; null when there is none. @throws {ProtocolError} VHOST_RING, VHOST_MEMORY. */
  pop(): Chain | null {
    if (!this.isReady) return null;
    const { available } = this.#place!;
    const waiting = (this.#memory.loadIndex(available + INDEX_AT) - this.#nextAvailable) & 0xffff;
    if (waiting === 0) return null;
    if (waiting > this.#size) throw this.#broken(`${waiting} chains wait in a ring of ${this.#size}`);
    const entry = Buffer.alloc(2);
    this.#memory.read(available + ENTRIES_AT + 2 * (this.#nextAvailable % this.#size), entry);
    const chain = this.#follow(entry.readUInt16LE(0));
    this.#nextAvailable = (this.#nextAvailable + 1) & 0xffff;
    return chain;
  }

  /** What the driver sent in a chain. */
  read(chain: Chain): Uint8Array {
    const out = new Uint8Array(chain.readableBytes);
    let at = 0;
    for (const { address, bytes } of chain.readable) {
      this.#memory.read(address, out.subarray(at, at + bytes));
      at += bytes;
    }
    return out;
  }

  /** Fills a chain and gives it back. @param bytes  At most `chain.writableBytes`. */
  push(chain: Chain, bytes: Uint8Array): void {
    if (bytes.length > chain.writableBytes) throw new RangeError(`${bytes.length} bytes for ${chain.writableBytes}`);
    let at = 0;
    for (const part of chain.writable) {
      const count = Math.min(part.bytes, bytes.length - at);
      if (count > 0) this.#memory.write(part.address, bytes.subarray(at, at + count));
      at += count;
    }
    const { used, logAddress } = this.#place!;
    const entryAt = ENTRIES_AT + 8 * (this.#nextUsed % this.#size);
    const entry = Buffer.alloc(8);
    entry.writeUInt32LE(chain.head, 0);
    entry.writeUInt32LE(bytes.length, 4);
    this.#memory.writeUnmarked(used + entryAt, entry);
    this.#nextUsed = (this.#nextUsed + 1) & 0xffff;
    this.#memory.storeIndex(used + INDEX_AT, this.#nextUsed);
    if (logAddress !== null) {
      this.#memory.mark(logAddress + entryAt, 8);
      this.#memory.mark(logAddress + INDEX_AT, 2);
    }
    this.#pushed = true;
  }

  /** Calls the driver, if anything was given back and it wants to be called. */
  notify(): void {
    if (!this.#pushed || !this.isReady) return;
    this.#pushed = false;
    if (this.#call === null || (this.#memory.loadIndex(this.#place!.available) & NO_CALL) !== 0) return;
    signalEvent(this.#call);
  }

  #follow(head: number): Chain {
    const readable: Part[] = [];
    const writable: Part[] = [];
    const entry = Buffer.alloc(DESCRIPTOR_BYTES);
    let total = 0;
    for (let at = head, length = 1; ; length++) {
      if (at >= this.#size) throw this.#broken(`descriptor ${at} of ${this.#size} is named`);
      if (length > this.#size) throw this.#broken("a chain of descriptors is longer than the ring, or a loop");
      this.#memory.read(this.#place!.descriptors + at * DESCRIPTOR_BYTES, entry);
      const flags = entry.readUInt16LE(12);
      const part = { address: Number(entry.readBigUInt64LE(0)), bytes: entry.readUInt32LE(8) };
      total += part.bytes;
      if ((flags & INDIRECT) !== 0) throw this.#broken("an indirect descriptor came, which was not offered");
      if (total > CHAIN_BYTES_MAX) throw this.#broken(`a chain carries more than ${CHAIN_BYTES_MAX} bytes`);
      if ((flags & DEVICE_WRITES) !== 0) writable.push(part);
      else if (writable.length === 0) readable.push(part);
      else throw this.#broken("a descriptor to read follows one to write");
      if ((flags & NEXT) === 0) break;
      at = entry.readUInt16LE(14);
    }
    return { head, readable, writable, readableBytes: sum(readable), writableBytes: sum(writable) };
  }

  #broken(what: string): ProtocolError {
    return new ProtocolError(
      "VHOST_RING",
      `queue ${this.index}: ${what}; the guest's driver or the front-end is broken`,
    );
  }
}

function sum(parts: readonly Part[]): number {
  return parts.reduce((total, { bytes }) => total + bytes, 0);
}
