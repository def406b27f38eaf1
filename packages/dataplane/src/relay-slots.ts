/**
 * Relay slots: packets on their way through, and the rounds that they must not leave.
 *
 * A relay holds a fixed number of packets. An incoming channel claims a free slot
 * before it takes a packet's pages off its socket, and fills it; an outgoing channel
 * claims a full one, sends it, and frees it. Who finds none waits, so a fast source
 * is held back by a slow destination through its own socket, and nothing grows.
 *
 *   incoming ── claimFree ──▶ FILLING ── fill ──▶ FULL ── claimFull ──▶ SENDING ── free ──▶ FREE
 *
 * Within a round packets may overtake each other. A round is closed by the
 * coordinator, when every incoming channel stands at its SYNC and so nothing is
 * FILLING; an outgoing channel that sees it closed and nothing FULL writes its own
 * SYNC and arrives. Only when all have arrived are the incoming channels let go on.
 *
 * A slot's pages lie in shared memory that C alone sees; here are the words that
 * say what they are. A slot belongs to whoever moved its state last.
 */
import type { Mapping } from "@multifd/native";
import { DEVICE_STATE_PACKET_BYTES, PACKET_GUEST_BYTES } from "@multifd/protocol";
import { RELAY, STOP } from "./shared-words.js";

/** Enough that every channel has one in hand while others wait their turn, few enough for 2 MiB a channel. */
const SLOTS_PER_CHANNEL = 4;

/**
 * Address space of a slot. A RAM packet fills the first 512 KiB, and only what is filled takes memory; the rest
 * is for a device's state, of which QEMU sends up to 1 MiB and a few words at a time.
 */
export const SLOT_BYTES = 4 * PACKET_GUEST_BYTES;

/** Largest state of one device-state packet that a relay passes on: it lies in a slot, behind its header. */
export const DEVICE_STATE_RELAY_MAX = SLOT_BYTES - DEVICE_STATE_PACKET_BYTES;

const FREE = 0;
const FILLING = 1;
const FULL = 2;
const SENDING = 3;

/** Words at the head of a slot; its page indexes follow. */
const SLOT = { state: 0, deviceStateBytes: 1, block: 2, normalPages: 3, zeroPages: 4, head: 8 } as const;

/** What a slot holds: pages of a RAM block, or a device-state packet of that many bytes, header included. */
export type SlotContents = {
  /** 0 for a RAM packet. */
  deviceStateBytes: number;
  block: number;
  normalPages: number;
  zeroPages: number;
};

/** Where each slot's pages lie. */
export function slotAddresses(memory: Mapping): readonly bigint[] {
  return Array.from({ length: memory.lengthBytes / SLOT_BYTES }, (_, slot) =>
    BigInt(memory.address + slot * SLOT_BYTES),
  );
}

/** A packet's pages as they lie in a slot: 0, 1, 2, … */
export function pagesInOrder(pagesMax: number): Uint32Array {
  return Uint32Array.from({ length: pagesMax }, (_, page) => page);
}

/** What the claims answer beside a slot number. */
export const SLOT_CLAIM = { roundOver: -1, giveUp: -2 } as const;

export class RelaySlots {
  readonly shared: SharedArrayBuffer;
  readonly count: number;
  /** Page indexes of all slots; a slot's begin at `pagesAt`. */
  readonly pages: Uint32Array;
  readonly #words: Int32Array;
  readonly #slotWords: number;

  /**
   * @param channels  Of both sides together.
   * @param pagesMax  Page indexes in one packet.
   */
  constructor(channels: number, pagesMax: number, shared?: SharedArrayBuffer) {
    this.count = channels * SLOTS_PER_CHANNEL;
    this.#slotWords = SLOT.head + pagesMax;
    this.shared = shared ?? new SharedArrayBuffer((RELAY.words + this.count * this.#slotWords) * 4);
    this.#words = new Int32Array(this.shared);
    this.pages = new Uint32Array(this.shared);
  }

  #slotAt(slot: number): number {
    return RELAY.words + slot * this.#slotWords;
  }

  /** Where a slot's page indexes begin in `pages`. */
  pagesAt(slot: number): number {
    return this.#slotAt(slot) + SLOT.head;
  }

  // ---- coordinator ----

  /** No packet of this round is still to come: outgoing channels write SYNC when they find nothing more to send. */
  closeRound(): void {
    Atomics.add(this.#words, RELAY.closedRounds, 1);
    this.#wakeAll(RELAY.filled);
  }

  /** How many SYNCs the outgoing channels have written, all together. */
  get arrived(): number {
    return Atomics.load(this.#words, RELAY.arrived);
  }

  /** Whether every packet taken in has been sent. */
  get allFree(): boolean {
    for (let slot = 0; slot < this.count; slot++) {
      if (Atomics.load(this.#words, this.#slotAt(slot) + SLOT.state) !== FREE) return false;
    }
    return true;
  }

  giveUp(): void {
    Atomics.store(this.#words, RELAY.stop, STOP.giveUp);
    this.#wakeAll(RELAY.filled);
    this.#wakeAll(RELAY.freed);
  }

  get bell(): number {
    return Atomics.load(this.#words, RELAY.bell);
  }

  /** Resolves when the bell has rung since it read `seen`, or after `timeoutMs`. */
  async waitForBell(seen: number, timeoutMs: number): Promise<void> {
    const waiting = Atomics.waitAsync(this.#words, RELAY.bell, seen, timeoutMs);
    if (waiting.async) await waiting.value;
  }

  ring(): void {
    Atomics.add(this.#words, RELAY.bell, 1);
    Atomics.notify(this.#words, RELAY.bell);
  }

  // ---- incoming channels ----

  /** Claims a slot to fill, waiting for one to be free. @returns its number, or `SLOT_CLAIM.giveUp`. */
  claimFree(): number {
    const words = this.#words;
    for (;;) {
      const freed = Atomics.load(words, RELAY.freed);
      if (Atomics.load(words, RELAY.stop) === STOP.giveUp) return SLOT_CLAIM.giveUp;
      const slot = this.#move(FREE, FILLING);
      if (slot >= 0) return slot;
      Atomics.wait(words, RELAY.freed, freed);
    }
  }

  /** Hands a claimed slot over to the outgoing channels, its pages and their indexes in place. */
  fill(slot: number, contents: Readonly<SlotContents>): void {
    const at = this.#slotAt(slot);
    this.#words[at + SLOT.deviceStateBytes] = contents.deviceStateBytes;
    this.#words[at + SLOT.block] = contents.block;
    this.#words[at + SLOT.normalPages] = contents.normalPages;
    this.#words[at + SLOT.zeroPages] = contents.zeroPages;
    this.#put(slot, FULL, RELAY.filled);
  }

  // ---- outgoing channels ----

  /**
   * Claims a slot to send, waiting for one to be full, and tells what is in it.
   *
   * @param syncs  SYNCs that this channel has written.
   * @returns its number, or one of `SLOT_CLAIM`.
   */
  claimFull(syncs: number, out: SlotContents): number {
    const words = this.#words;
    for (;;) {
      const filled = Atomics.load(words, RELAY.filled);
      if (Atomics.load(words, RELAY.stop) === STOP.giveUp) return SLOT_CLAIM.giveUp;
      // Before the look: what is found empty after the round was closed is empty for good.
      const isClosed = Atomics.load(words, RELAY.closedRounds) > syncs;
      const slot = this.#move(FULL, SENDING);
      if (slot >= 0) {
        const at = this.#slotAt(slot);
        out.deviceStateBytes = words[at + SLOT.deviceStateBytes]!;
        out.block = words[at + SLOT.block]!;
        out.normalPages = words[at + SLOT.normalPages]!;
        out.zeroPages = words[at + SLOT.zeroPages]!;
        return slot;
      }
      if (isClosed) return SLOT_CLAIM.roundOver;
      Atomics.wait(words, RELAY.filled, filled);
    }
  }

  /** Gives a slot back that has been sent. */
  free(slot: number): void {
    this.#put(slot, FREE, RELAY.freed);
    this.ring();
  }

  nextPacketNumber(): number {
    return Atomics.add(this.#words, RELAY.packetNumber, 1) >>> 0;
  }

  /** This channel has written the SYNC that closes its round. */
  arrive(): void {
    Atomics.add(this.#words, RELAY.arrived, 1);
    this.ring();
  }

  // ---- both ----

  /** Moves any slot from one state to another. @returns its number; -1 when there is none. */
  #move(from: number, to: number): number {
    for (let slot = 0; slot < this.count; slot++) {
      const at = this.#slotAt(slot) + SLOT.state;
      if (Atomics.load(this.#words, at) === from && Atomics.compareExchange(this.#words, at, from, to) === from)
        return slot;
    }
    return -1;
  }

  /** One slot is one channel's work: one is woken. */
  #put(slot: number, state: number, turn: number): void {
    Atomics.store(this.#words, this.#slotAt(slot) + SLOT.state, state);
    Atomics.add(this.#words, turn, 1);
    Atomics.notify(this.#words, turn, 1);
  }

  #wakeAll(turn: number): void {
    Atomics.add(this.#words, turn, 1);
    Atomics.notify(this.#words, turn);
  }
}
