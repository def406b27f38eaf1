/**
 * Method choice: which of several methods gets a channel's packets across soonest, now.
 *
 * Methods are numbers here, 0 the cheapest. What each would cost is foreseen, for
 * that is cheap: the CPU time and the ratio of every method are known from samples,
 * what the link costs from the packets that went, as the time not spent preparing
 * them (blocked in send, or waiting for a packet that the bandwidth limit held back).
 * But what slows a link down is not known: a destination short of CPU time looks like a slow
 * link, and compression then makes it slower. So the most promising method is tried,
 * on a few packets, and kept only if they did get across sooner; and what looked
 * better only because it filled empty buffers is found out a little later.
 *
 *   settled ──(a method promises enough)──▶ trial ──(it kept it)──▶ probation ──▶ settled
 *      ▲                                      │ no                     │ no
 *      └────────────(not again for a while)───┴────────────────────────┘
 *
 * A method that failed has to wait twice as long each time, unless the channel's
 * speed has changed since. Pure: the caller brings packets, samples and the clock.
 * Counts are of full packets: one with few pages tells little. bench/src/auto-choice.ts
 * compares with every fixed method.
 */
import { PACKET_GUEST_BYTES } from "@multifd/protocol";

/** Of what packets before it cost, a packet's own part is 1 / MEMORY_PACKETS. */
const MEMORY_PACKETS = 48;
/** Packets of a method before it is compared. */
const WARM_PACKETS = 8;
/** Packets that a trial does not count: what the method before has left in the buffers. */
const SETTLING_PACKETS = 2;
const TRIAL_PACKETS = 10;
/** As many, while it is not clear yet whether it is better. */
const LONG_TRIAL_PACKETS = 40;
const CLEAR = 0.7;
/** Counted packets after which a trial that goes very badly, or very well, is over. */
const CLEAR_PACKETS = 3;
const HOPELESS = 1.5;
const SPLENDID = 0.55;
const PROBATION_PACKETS = 32;
/** What a method must promise to be tried, have kept in the trial, and keep then: parts of the time so far. */
const PROMISE = 0.93;
const KEPT = 0.96;
const WORSE = 1.04;
/** Packets until a method that failed is tried again, after its first failure. */
const REST_PACKETS = 64;
const REST_DOUBLINGS_MAX = 4;
/** A speed so many times what it was at the failure is another link. */
const CHANGED = 1.4;
/** Samples of each method, one behind each packet, to begin with; then one behind so many packets. */
const FIRST_SAMPLES = 4;
const SAMPLE_PACKETS = 16;
/** A sample's part in what is known of its method. */
const SAMPLE_WEIGHT = 0.25;

/** Per byte of guest RAM. */
type Cost = { ms: number; wireBytes: number };

type Attempt = { readonly method: number; packets: number; ms: number; bytes: number };

type Failure = { times: number; notBefore: number; msPerByte: number };

export class MethodChoice {
  readonly #samples: readonly Cost[];
  readonly #failures: readonly Failure[];
  /** Sums over the packets of the method in use, the older ones fading. */
  readonly #sums = { packets: 0, bytes: 0, prepareMs: 0, prepareCpuMs: 0, ms: 0, wireBytes: 0 };
  #method = 0;
  #trial: Attempt | null = null;
  /** What the method before took per byte, while the one in use is on probation. */
  #before: { readonly method: number; readonly msPerByte: number } | null = null;
  #packets = 0;
  #sampled = 0;
  #sampleAt = 0;

  /** @param methods  How many there are. */
  constructor(methods: number) {
    this.#samples = Array.from({ length: methods }, () => ({ ms: Number.NaN, wireBytes: Number.NaN }));
    this.#failures = Array.from({ length: methods }, () => ({ times: 0, notBefore: 0, msPerByte: 0 }));
  }

  /** The method for the next packet. */
  get next(): number {
    return this.#trial === null ? this.#method : this.#trial.method;
  }

  /** The method that a part of the packet just sent is to be compressed with, for a sample; -1 for none. */
  get sampleDue(): number {
    const due = this.#sampled % this.#samples.length;
    return this.#sampled < FIRST_SAMPLES * this.#samples.length || this.#packets >= this.#sampleAt ? due : -1;
  }

  /** What came of a sample of `bytes` of guest RAM. @param ms  CPU time: whoever else is running does not belong to the method. */
  sample(method: number, bytes: number, ms: number, wireBytes: number): void {
    const known = this.#samples[method]!;
    const weight = Number.isNaN(known.ms) ? 1 : SAMPLE_WEIGHT;
    known.ms = weight === 1 ? ms / bytes : known.ms + weight * (ms / bytes - known.ms);
    const ratio = Math.min(1, wireBytes / bytes);
    known.wireBytes = weight === 1 ? ratio : known.wireBytes + weight * (ratio - known.wireBytes);
    this.#sampled++;
    this.#sampleAt = this.#packets + SAMPLE_PACKETS;
  }

  /**
   * A packet has been sent, with the method of `next`.
   *
   * @param bytes      Guest RAM in its normal pages.
   * @param prepareMs     What reading and compressing it took.
   * @param prepareCpuMs  What of that the thread was running.
   * @param ms            From the end of the packet before to its own.
   */
  sent(bytes: number, prepareMs: number, prepareCpuMs: number, ms: number, wireBytes: number): void {
    const packets = bytes / PACKET_GUEST_BYTES;
    this.#packets += packets;
    if (this.#trial !== null) {
      this.#judgeTrial(this.#trial, packets, bytes, ms);
      return;
    }
    const sums = this.#sums;
    const kept = 1 - packets / MEMORY_PACKETS;
    sums.packets += packets;
    sums.bytes = sums.bytes * kept + bytes;
    sums.prepareMs = sums.prepareMs * kept + prepareMs;
    sums.prepareCpuMs = sums.prepareCpuMs * kept + prepareCpuMs;
    sums.ms = sums.ms * kept + ms;
    sums.wireBytes = sums.wireBytes * kept + wireBytes;
    if (this.#before !== null) this.#judgeProbation(this.#before);
    else if (sums.packets >= WARM_PACKETS) this.#look();
  }

  #judgeTrial(trial: Attempt, packets: number, bytes: number, ms: number): void {
    trial.packets += packets;
    if (trial.packets <= SETTLING_PACKETS) return;
    trial.ms += ms;
    trial.bytes += bytes;
    const counted = trial.packets - SETTLING_PACKETS;
    const before = this.#sums.ms / this.#sums.bytes;
    const ratio = trial.ms / trial.bytes / before;
    if (counted < CLEAR_PACKETS) return;
    if (ratio > HOPELESS) this.#fail(trial.method, before);
    else if (ratio < SPLENDID) this.#adopt(trial.method, before);
    else if (counted < TRIAL_PACKETS || (counted < LONG_TRIAL_PACKETS && ratio > CLEAR && ratio < WORSE)) return;
    else if (ratio > KEPT) this.#fail(trial.method, before);
    else this.#adopt(trial.method, before);
    this.#trial = null;
  }

  #adopt(method: number, msPerByte: number): void {
    this.#before = { method: this.#method, msPerByte };
    this.#use(method);
  }

  #judgeProbation({ method, msPerByte }: { readonly method: number; readonly msPerByte: number }): void {
    if (this.#sums.packets < PROBATION_PACKETS) return;
    this.#before = null;
    if (this.#sums.ms / this.#sums.bytes > WORSE * msPerByte) {
      this.#fail(this.#method, msPerByte);
      this.#use(method);
    } else {
      this.#failures[this.#method]!.times = 0;
    }
  }

  #use(method: number): void {
    this.#method = method;
    Object.assign(this.#sums, { packets: 0, bytes: 0, prepareMs: 0, prepareCpuMs: 0, ms: 0, wireBytes: 0 });
  }

  #fail(method: number, msPerByte: number): void {
    const failure = this.#failures[method]!;
    failure.notBefore = this.#packets + REST_PACKETS * 2 ** Math.min(failure.times, REST_DOUBLINGS_MAX);
    failure.times++;
    failure.msPerByte = msPerByte;
  }

  /** Starts a trial of the method that promises most, if one promises enough. */
  #look(): void {
    const msPerByte = this.#sums.ms / this.#sums.bytes;
    let best = -1;
    let bestMs = PROMISE * msPerByte;
    for (let method = 0; method < this.#samples.length; method++) {
      if (method === this.#method || this.#isResting(method, msPerByte)) continue;
      const ms = this.#foresee(method);
      if (ms < bestMs) {
        best = method;
        bestMs = ms;
      }
    }
    if (best >= 0) this.#trial = { method: best, packets: 0, ms: 0, bytes: 0 };
  }

  #isResting(method: number, msPerByte: number): boolean {
    const { times, notBefore, msPerByte: then } = this.#failures[method]!;
    if (times === 0 || this.#packets >= notBefore) return false;
    return msPerByte < CHANGED * then && msPerByte > then / CHANGED;
  }

  /**
   * What a byte would take at best: the link idle while a packet is prepared, or busy all the time, whichever makes
   * less of it. NaN, which promises nothing, where a sample is missing.
   */
  #foresee(method: number): number {
    const { bytes, prepareMs, prepareCpuMs, ms, wireBytes } = this.#sums;
    const { ms: compressMs, wireBytes: ratio } = this.#samples[method]!;
    // On a machine that is short of CPU time every method waits for its turn in proportion.
    const stretch = Math.max(1, prepareMs / prepareCpuMs);
    const prepare = stretch * (Math.max(0, prepareCpuMs / bytes - this.#samples[this.#method]!.ms) + compressMs);
    const inTurns = prepare + (ratio * (ms - prepareMs)) / wireBytes;
    const atOnce = Math.max(prepare, (ratio * ms) / wireBytes);
    return Math.min(inTurns, atOnce);
  }
}
