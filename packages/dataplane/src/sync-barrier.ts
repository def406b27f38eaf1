/**
 * Sync barrier of the destination: no page of a round before the last one is in.
 *
 * A channel that meets SYNC has applied everything before it; it arrives and
 * stops reading until it is released. The coordinator, when the main channel says
 * so, waits until every channel has arrived once more, then releases all.
 *
 *   channel 0      packet packet SYNC ┐        ┌ packet …
 *   channel 1      packet SYNC ───────┤        ├ packet …
 *   main channel                      └ FLUSH ─┘
 *
 * Arrivals are counted, not flagged: a channel may meet SYNC long before the main
 * channel speaks of it, and each record consumes exactly one SYNC of each channel.
 * An error cannot be missed: a worker that fails or meets the end of its stream
 * rings the same bell as one that arrives.
 * Source: QEMU 10.0, migration/multifd.c, multifd_recv_sync_main().
 */
import { BARRIER, BARRIER_CHANNEL, STOP } from "./shared-words.js";

/** Released for good: no later SYNC holds anybody. */
const RELEASED_FOR_GOOD = 2 ** 31 - 1;

export class SyncBarrier {
  readonly shared: SharedArrayBuffer;
  readonly channels: number;
  readonly #words: Int32Array;

  constructor(channels: number, shared?: SharedArrayBuffer) {
    this.channels = channels;
    this.shared = shared ?? new SharedArrayBuffer((BARRIER.words + channels * BARRIER_CHANNEL.words) * 4);
    this.#words = new Int32Array(this.shared);
  }

  #channelAt(channel: number, word: number): number {
    return BARRIER.words + channel * BARRIER_CHANNEL.words + word;
  }

  // ---- coordinator ----

  /** Channels that have not met their SYNC number `sync` (the first is 1). */
  missing(sync: number): number[] {
    const missing: number[] = [];
    for (let channel = 0; channel < this.channels; channel++) {
      if (Atomics.load(this.#words, this.#channelAt(channel, BARRIER_CHANNEL.arrived)) < sync) missing.push(channel);
    }
    return missing;
  }

  /** Channels whose stream has ended at a packet boundary. */
  ended(channel: number): boolean {
    return Atomics.load(this.#words, this.#channelAt(channel, BARRIER_CHANNEL.ended)) === 1;
  }

  /** Device-state packets that the channels have handed over so far. */
  get deviceStates(): number {
    let sum = 0;
    for (let channel = 0; channel < this.channels; channel++) {
      sum += Atomics.load(this.#words, this.#channelAt(channel, BARRIER_CHANNEL.deviceStates));
    }
    return sum;
  }

  /** Takes a channel's oldest outstanding device-state packet over: it may receive its next one. */
  admitDeviceState(channel: number): void {
    Atomics.add(this.#words, this.#channelAt(channel, BARRIER_CHANNEL.admitted), 1);
    this.#turn();
  }

  /** Lets every channel pass its SYNC number `sync`. */
  release(sync: number): void {
    Atomics.store(this.#words, BARRIER.released, sync);
    this.#turn();
  }

  /** Lets every channel pass every SYNC: some sources end with one that no record pairs with (QEMU 9.1, 9.2). */
  releaseForGood(): void {
    this.release(RELEASED_FOR_GOOD);
  }

  giveUp(): void {
    Atomics.store(this.#words, BARRIER.stop, STOP.giveUp);
    this.#turn();
  }

  get bell(): number {
    return Atomics.load(this.#words, BARRIER.bell);
  }

  /** Resolves when the bell has rung since it read `seen`, or after `timeoutMs`. */
  async waitForBell(seen: number, timeoutMs: number): Promise<void> {
    const waiting = Atomics.waitAsync(this.#words, BARRIER.bell, seen, timeoutMs);
    if (waiting.async) await waiting.value;
  }

  // ---- workers ----

  /** Arrives at the channel's next SYNC and blocks until it is released. @returns false when there is nothing to go on for. */
  arrive(channel: number): boolean {
    const words = this.#words;
    const sync = Atomics.add(words, this.#channelAt(channel, BARRIER_CHANNEL.arrived), 1) + 1;
    this.ring();
    for (;;) {
      const turn = Atomics.load(words, BARRIER.turn);
      if (Atomics.load(words, BARRIER.stop) === STOP.giveUp) return false;
      if (Atomics.load(words, BARRIER.released) >= sync) return true;
      Atomics.wait(words, BARRIER.turn, turn);
    }
  }

  /**
   * Blocks until every device-state packet that the channel has handed over has been admitted: so it holds one at
   * most, and a device that loads slowly holds its channels up. @returns false when there is nothing to go on for.
   */
  awaitAdmission(channel: number): boolean {
    const words = this.#words;
    const handedOver = Atomics.load(words, this.#channelAt(channel, BARRIER_CHANNEL.deviceStates));
    for (;;) {
      const turn = Atomics.load(words, BARRIER.turn);
      if (Atomics.load(words, BARRIER.stop) === STOP.giveUp) return false;
      if (Atomics.load(words, this.#channelAt(channel, BARRIER_CHANNEL.admitted)) === handedOver) return true;
      Atomics.wait(words, BARRIER.turn, turn);
    }
  }

  countDeviceState(channel: number): void {
    Atomics.add(this.#words, this.#channelAt(channel, BARRIER_CHANNEL.deviceStates), 1);
  }

  markEnded(channel: number): void {
    Atomics.store(this.#words, this.#channelAt(channel, BARRIER_CHANNEL.ended), 1);
    this.ring();
  }

  ring(): void {
    Atomics.add(this.#words, BARRIER.bell, 1);
    Atomics.notify(this.#words, BARRIER.bell);
  }

  #turn(): void {
    Atomics.add(this.#words, BARRIER.turn, 1);
    Atomics.notify(this.#words, BARRIER.turn);
  }
}
