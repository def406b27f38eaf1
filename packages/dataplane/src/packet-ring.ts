/**
 * Packet ring: a round, published by the coordinator and claimed by the channels.
 *
 * The coordinator writes page indexes into free slots and raises `published`; a
 * worker claims the next packet with one atomic add, copies its slot's 128
 * indexes and frees the slot. Nothing is posted, and a slow channel simply
 * claims less. The ring is bounded, so a terabyte is planned in the same half
 * megabyte as a gigabyte: the coordinator refills it while the channels send.
 *
 *   slots      │ p-1024 … freed │ claimed, being sent │ published │ free …
 *                                                cursor ┘  published ┘
 *
 * A round ends when `total` is known and the cursor has passed it; every worker
 * then writes SYNC and arrives. Only when all have arrived does the coordinator
 * reset the cursor, so no claim ever spans two rounds.
 *
 * A slot belongs to the coordinator while FREE and to the claimer while FULL.
 */
import { RING, STOP } from "./shared-words.js";

const SLOT_FREE = 0;
const SLOT_FULL = 1;

/** Words at the head of a slot. */
const SLOT = { state: 0, kind: 1, block: 2, count: 3, head: 4 } as const;

/**
 * What a slot announces: guest pages; one device's state in the stage; guest pages that are zeros without being
 * looked at; or a frame of a compressed snapshot, by its unit and the number of its pages that count.
 */
export const PACKET_KIND = { ram: 0, deviceState: 1, zeroPages: 2, frame: 3 } as const;

const SLOTS = 1024;
/** How many slots must have been freed before the coordinator is woken to refill. */
const REFILL_SLOTS = 256;

/** What `claim` answers beside a slot number. */
export const CLAIM = { roundOver: -1, giveUp: -2 } as const;

export class PacketRing {
  readonly shared: SharedArrayBuffer;
  readonly #words: Int32Array;
  readonly #pages: Uint32Array;
  readonly #slotWords: number;
  readonly #pagesMax: number;

  /** @param pagesMax  Page indexes in one packet. */
  constructor(pagesMax: number, shared?: SharedArrayBuffer) {
    this.#pagesMax = pagesMax;
    this.#slotWords = SLOT.head + pagesMax;
    this.shared = shared ?? new SharedArrayBuffer((RING.words + SLOTS * this.#slotWords) * 4);
    this.#words = new Int32Array(this.shared);
    this.#pages = new Uint32Array(this.shared);
  }

  #slotAt(packet: number): number {
    return RING.words + (packet % SLOTS) * this.#slotWords;
  }

  // ---- coordinator ----

  /** Opens the next round. Every worker waits for it: at the start, or since it arrived. */
  openRound(): void {
    const words = this.#words;
    Atomics.store(words, RING.cursor, 0);
    Atomics.store(words, RING.published, 0);
    Atomics.store(words, RING.sent, 0);
    Atomics.store(words, RING.total, -1);
    Atomics.store(words, RING.arrived, 0);
    Atomics.add(words, RING.round, 1);
    this.#turn();
  }

  /** Whether the next slot is free to be written. */
  hasRoom(): boolean {
    const published = Atomics.load(this.#words, RING.published);
    return Atomics.load(this.#words, this.#slotAt(published) + SLOT.state) === SLOT_FREE;
  }

  /** Where the next packet's page indexes go: up to `pagesMax` from `at` in `pages`. Then `publish`. */
  nextSlot(): { readonly pages: Uint32Array; readonly at: number } {
    const published = Atomics.load(this.#words, RING.published);
    return { pages: this.#pages, at: this.#slotAt(published) + SLOT.head };
  }

  /** Publishes what was written to `nextSlot`; workers see it at the next `announce`, or sooner. */
  publish(kind: number, block: number, count: number): void {
    const words = this.#words;
    const published = Atomics.load(words, RING.published);
    const at = this.#slotAt(published);
    words[at + SLOT.kind] = kind;
    words[at + SLOT.block] = block;
    words[at + SLOT.count] = count;
    Atomics.store(words, at + SLOT.state, SLOT_FULL);
    Atomics.store(words, RING.published, published + 1);
  }

  /** Wakes workers that wait for packets. */
  announce(): void {
    this.#turn();
  }

  /** The round is whole: workers write SYNC when the cursor has passed its last packet. */
  closeRound(): void {
    Atomics.store(this.#words, RING.total, Atomics.load(this.#words, RING.published));
    this.#turn();
  }

  /** Ends every worker: after the round it waits for (`end`), or now. */
  stop(how: "end" | "giveUp"): void {
    Atomics.store(this.#words, RING.stop, STOP[how]);
    this.#turn();
  }

  get arrived(): number {
    return Atomics.load(this.#words, RING.arrived);
  }

  get publishedPackets(): number {
    return Atomics.load(this.#words, RING.published);
  }

  get sentPackets(): number {
    return Atomics.load(this.#words, RING.sent);
  }

  /** The bell's count: read it before looking at anything else, then wait for it to change. */
  get bell(): number {
    return Atomics.load(this.#words, RING.bell);
  }

  /** Resolves when the bell has rung since it read `seen`, or after `timeoutMs`. */
  async waitForBell(seen: number, timeoutMs: number): Promise<void> {
    const waiting = Atomics.waitAsync(this.#words, RING.bell, seen, timeoutMs);
    if (waiting.async) await waiting.value;
  }

  // ---- workers ----

  /** Blocks until round number `round` (the first is 1) is open. @returns false when there will be none. */
  awaitRound(round: number): boolean {
    const words = this.#words;
    for (;;) {
      const turn = Atomics.load(words, RING.turn);
      if (Atomics.load(words, RING.round) >= round) return true;
      if (Atomics.load(words, RING.stop) !== STOP.run) return false;
      Atomics.wait(words, RING.turn, turn);
    }
  }

  /** Claims the next packet of the round, waiting for it to be published. @returns its number, or one of `CLAIM`. */
  claim(): number {
    const words = this.#words;
    const packet = Atomics.add(words, RING.cursor, 1);
    for (;;) {
      const turn = Atomics.load(words, RING.turn);
      if (Atomics.load(words, RING.stop) === STOP.giveUp) return CLAIM.giveUp;
      if (packet < Atomics.load(words, RING.published)) return packet;
      const total = Atomics.load(words, RING.total);
      if (total >= 0 && packet >= total) return CLAIM.roundOver;
      Atomics.wait(words, RING.turn, turn);
    }
  }

  /** Copies a claimed packet out and frees its slot. */
  take(packet: number, out: { kind: number; block: number; count: number }, pages: Uint32Array): void {
    const words = this.#words;
    const at = this.#slotAt(packet);
    out.kind = words[at + SLOT.kind]!;
    out.block = words[at + SLOT.block]!;
    out.count = words[at + SLOT.count]!;
    const from = at + SLOT.head;
    pages.set(this.#pages.subarray(from, from + Math.min(out.count, this.#pagesMax)));
    Atomics.store(words, at + SLOT.state, SLOT_FREE);
    if (packet % REFILL_SLOTS === REFILL_SLOTS - 1 || this.#runsDry()) this.ring();
  }

  /**
   * Whether the open round may have no packet left whose number rings the bell. A worker that was held up between
   * claim and take frees the very slot the coordinator waits for, after all others have gone by and rung.
   */
  #runsDry(): boolean {
    const words = this.#words;
    if (Atomics.load(words, RING.total) >= 0) return false;
    return Atomics.load(words, RING.published) - Atomics.load(words, RING.cursor) < REFILL_SLOTS;
  }

  nextPacketNumber(): number {
    return Atomics.add(this.#words, RING.packetNumber, 1) >>> 0;
  }

  markSent(): void {
    Atomics.add(this.#words, RING.sent, 1);
  }

  /** This channel has written the round's SYNC. */
  arrive(): void {
    Atomics.add(this.#words, RING.arrived, 1);
    this.ring();
  }

  ring(): void {
    Atomics.add(this.#words, RING.bell, 1);
    Atomics.notify(this.#words, RING.bell);
  }

  #turn(): void {
    Atomics.add(this.#words, RING.turn, 1);
    Atomics.notify(this.#words, RING.turn);
  }
}
