/** Test fixtures: a guest that is nobody but the test, its ring, and a device behind a socket. */
import { readSync, writeSync } from "node:fs";
import {
  closeDescriptor,
  createEvent,
  createMemfd,
  pollReadable,
  signalEvent,
  socketPair,
  takeEvent,
} from "@multifd/native";
import type { Ring } from "./attached-device.js";
import type { BackEndDevice } from "./back-end-device.js";
import { BackEndSession, type SessionEvent } from "./back-end-session.js";
import { FrontEnd } from "./front-end.js";
import type { MemoryRegion } from "./memory-table.js";

const GUEST_BASE = 0x10_0000;
export const RAM_BYTES = 2 ** 20;
const RING_SIZE = 8;
const WRITE = 2;

/** Guest RAM at 1 MiB, with one ring in its first pages and a buffer behind. */
export class FixtureGuest {
  readonly descriptor = createMemfd("guest", RAM_BYTES);
  readonly kick = createEvent();
  readonly call = createEvent();
  readonly ring: Ring = {
    index: 0,
    size: RING_SIZE,
    descriptors: GUEST_BASE,
    available: GUEST_BASE + 0x1000,
    used: GUEST_BASE + 0x2000,
  };
  #available = 0;

  get regions(): readonly MemoryRegion[] {
    return [{ guestAddress: GUEST_BASE, lengthBytes: RAM_BYTES, descriptor: this.descriptor, offsetBytes: 0 }];
  }

  get events() {
    return { kick: this.kick, call: this.call };
  }

  read(offset: number, bytes: number): Buffer {
    const out = Buffer.alloc(bytes);
    readSync(this.descriptor, out, 0, bytes, offset);
    return out;
  }

  write(offset: number, bytes: Uint8Array): void {
    writeSync(this.descriptor, bytes, 0, bytes.length, offset);
  }

  /** Writes one descriptor as it is, sense or not. */
  describe(place: number, address: number, bytes: number, flags: number, next = 0): void {
    const entry = Buffer.alloc(16);
    entry.writeBigUInt64LE(BigInt(address), 0);
    entry.writeUInt32LE(bytes, 8);
    entry.writeUInt16LE(flags, 12);
    entry.writeUInt16LE(next, 14);
    this.write(16 * place, entry);
  }

  /** Makes the chain at `head` available, as the ring's next, and kicks. */
  offer(head: number, ahead = 1): void {
    const entry = Buffer.alloc(2);
    entry.writeUInt16LE(head);
    this.write(0x1004 + 2 * (this.#available % RING_SIZE), entry);
    this.#available = (this.#available + ahead) & 0xffff;
    entry.writeUInt16LE(this.#available);
    this.write(0x1002, entry);
    signalEvent(this.kick);
  }

  /** Asks for bytes at a guest offset, and waits until the device has called. */
  async fetch(offset: number, bytes: number): Promise<Buffer> {
    this.describe(0, GUEST_BASE + offset, bytes, WRITE);
    this.offer(0);
    await pollReadable([this.call], 10_000);
    takeEvent(this.call);
    return this.read(offset, bytes);
  }

  get used(): number {
    return this.read(0x2002, 2).readUInt16LE(0);
  }

  close(): void {
    for (const descriptor of [this.descriptor, this.kick, this.call]) closeDescriptor(descriptor);
  }
}

/** A device behind one end of a socket pair; the other end is the test's. */
export function serveDevice(device: BackEndDevice): {
  readonly socket: number;
  readonly events: readonly SessionEvent[];
  readonly ended: Promise<Error | null>;
  readonly close: () => Promise<void>;
} {
  const [ours, theirs] = socketPair();
  const events: SessionEvent[] = [];
  const session = new BackEndSession(theirs, device, (event) => events.push(event));
  const ended = session.run().then(
    () => null,
    (error: Error) => error,
  );
  return {
    socket: ours,
    events,
    ended,
    close: async () => {
      session.close();
      await ended;
    },
  };
}

/** A front-end over a socket. */
export function attachFrontEnd(socket: number, replyTimeoutMs = 10_000): Promise<FrontEnd> {
  return FrontEnd.over(socket, "back-end", { replyTimeoutMs });
}
