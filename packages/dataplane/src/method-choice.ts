/**
 * Method choice: which of several methods gets a migration's packets across soonest, now.
 *
 * One choice for all channels, for they share what holds them up: the link, the
 * bandwidth limit, the CPUs. A channel that tried a method by itself would see its
 * neighbours take what it saved.
 *
 * Methods are numbers here, 0 the cheapest. What each would cost is foreseen, for
 * that is cheap: the CPU time and the ratio of every method are known from samples,
 * what the link costs from the packets that went, as the time neither spent preparing
 * them nor waiting for one that the bandwidth limit held back.
 * But what slows a link down is not known: a destination short of CPU time looks like a slow
 * link, and compression then makes it slower. So the most promising method is tried,
 * and kept only if packets did get across sooner.
 *
 *   settled ──(a method promises enough)──▶ trial ──(packets went sooner)──▶ probation ──▶ settled
 *      ▲                                      │ no                              │ no
 *      └──────────(not again for a while)─────┴─────────────────────────────────┘
 *
 * What a bandwidth limit costs needs no trial: where it would hold a method back for
 * most of the time, that method goes on probation at once.
 *
 * Bad news is believed soon: a trial ends when it has lost more time than all trials
 * together may lose, a small part of the time so far. Good news is not: empty
 * buffers and a full token bucket make anything look fast, so only the
 * later half of a trial proves it, and what is not clear yet goes on. A method that failed, or was
 * replaced, rests, twice as long each time, and waits until it may lose more than last time;
 * unless the speed has changed since.
 *
 * Pure: the caller brings progress, samples and the clock. Packets are counted
 * by their guest RAM: one with few pages tells little. bench/src/auto-choice.ts
 * compares with every fixed method.
 */
import { PACKET_GUEST_BYTES } from "@multifd/protocol";

/** Of what packets before it cost, a packet's own part is one in so many, or of so long if that is more. */
const MEMORY_PACKETS = 96;
const MEMORY_MS = 500;
/** What of a method has to be known before others are compared with it; a stall in the first moments would speak for any other. */
const WARM_PACKETS = 8;
const WARM_MS = 100;
/** Samples, one behind each packet, to begin with; then one after so long. */
const FIRST_SAMPLES = 4;
const SAMPLE_MS = 60;
/** A sample's part in what is known of its method, once some are. */
const SAMPLE_WEIGHT = 0.25;
/** Packets that a trial does not count, beside one per channel: those in hand bear the method before. */
const SETTLING_PACKETS = 1;
/** Each half of a trial, at least: about as long as the engine's token bucket, and most sockets' buffers, bear. */
const HALF_MS = 40;
const HALF_PACKETS = 6;
/** How far from the time before so few packets must be to prove anything; twice as near with four times as many. */
const DOUBT = 0.3;
/** So many prove what they prove. */
const LONG_HALF_PACKETS = 100;
/** Counted packets before a trial can have lost too much. */
const CLEAR_PACKETS = 3;
/** What all trials together may lose: a part of the time so far, and something to begin with. */
const LOSS_PART = 0.025;
const FIRST_LOSS_MS = 8;
/** On a slow link a few packets' worth, or chance would decide. */
const FIRST_LOSS_PACKETS = 3;
/** What must be left of it for a trial: so much, or so many times what the method's last one lost. */
const LEAST_LOSS_MS = 3;
const NEED = 2;
const PROBATION_PACKETS = 32;
const PROBATION_MS = 100;
/** What a method must promise to be tried, have kept in the trial, and keep then: parts of the time so far. */
const PROMISE = 0.9;
const KEPT = 0.96;
const WORSE = 1.04;
/** Under a limit: what the source's work is of all there is to do, and what of the time now is worth it. */
const BUSY = 0.5;
const SPARING = 0.97;
/** Where packets are still held back for so much of the time, nothing is slower for the method's sake. */
const LEFT = 0.25;
/** What packets as they are show of the link: where preparing takes no more than so much of the time, and for so many times as long. */
const SHOWING = 0.25;
const SHOWN_TIMES = 10;
const SHOWN_MS_MAX = 2000;
/** How long a method that failed rests: so many times what its trial lost, but no less than so long. */
const REST_LOSSES = 20;
const REST_MS = 100;
const REST_DOUBLINGS_MAX = 5;
/** So many packets, and no fewer than in so long, at so many times the speed of before: another link, or other contents. */
const CHANGED = 2;
const LATEST_PACKETS = 24;
const LATEST_MS = 30;

/** Per byte of guest RAM. */
type Cost = { ms: number; wireBytes: number };

/** What all channels got done meanwhile. */
export type Progress = {
  /** Guest RAM in normal pages. */
  readonly bytes: number;
  /** What reading and compressing took, all channels added up; and what of that their threads were running. */
  readonly prepareMs: number;
  readonly prepareCpuMs: number;
  /** What channels waited for packets that the bandwidth limit held back, all added up. */
  readonly heldMs: number;
  /** What the limit in force makes a byte on the wire take; 0 where there is none. */
  readonly msPerWireByte: number;
  readonly wireBytes: number;
  /** On the clock. */
  readonly ms: number;
};

type Sums = { packets: number; bytes: number; ms: number };

/** `late`: of its later half. */
type Trial = { readonly method: number; settling: number; readonly all: Sums; readonly late: Sums };

/** `needMs`: what a trial must be allowed to lose. */
type Failure = { times: number; notBeforeMs: number; needMs: number };

export class MethodChoice {
  readonly #channels: number;
  readonly #samples: readonly Cost[];
  readonly #failures: readonly Failure[];
  /** Sums over the packets of the method in use, the older ones fading. */
  readonly #sums = { packets: 0, bytes: 0, prepareMs: 0, prepareCpuMs: 0, heldMs: 0, ms: 0, wireBytes: 0 };
  /** Its latest packets, some at a time. */
  readonly #latest: Sums = { packets: 0, bytes: 0, ms: 0 };
  #method = 0;
  #trial: Trial | null = null;
  /** What the method before took per byte, while the one in use is on probation. */
  #before: { readonly method: number; readonly msPerByte: number } | null = null;
  /** What a byte took when the method in use was first looked at, or the speed last changed; 0 before. */
  #usualMsPerByte = 0;
  /** Since the method in use is. */
  #sinceMs = 0;
  #nowMs = 0;
  #msPerWireByte = 0;
  /** What a byte took on the link while nothing was compressed, and until when that is thought true. */
  readonly #link = { msPerWireByte: 0, untilMs: 0 };
  /** By trials. */
  #lostMs = 0;
  #sampled = 0;
  #sampleAtMs = 0;

  /** @param methods  How many there are. */
  constructor(methods: number, channels: number) {
    this.#channels = channels;
    this.#samples = Array.from({ length: methods }, () => ({ ms: 0, wireBytes: 0 }));
    this.#failures = Array.from({ length: methods }, () => ({ times: 0, notBeforeMs: 0, needMs: LEAST_LOSS_MS }));
  }

  /** The method for the next packets. */
  get next(): number {
    return this.#trial === null ? this.#method : this.#trial.method;
  }

  /** Whether a part of the packet just sent is to be compressed with every method, for a sample. */
  get sampleDue(): boolean {
    return this.#sampled < FIRST_SAMPLES || this.#nowMs >= this.#sampleAtMs;
  }

  /**
   * What came of a sample: the same guest RAM by every method, so that none profits from what it met.
   *
   * @param ms  CPU time: whoever else is running does not belong to the method.
   */
  sample(bytes: number, results: readonly { readonly ms: number; readonly wireBytes: number }[]): void {
    // The first one finds codecs cold, and counts only until the second.
    const weight = Math.max(SAMPLE_WEIGHT, 1 / Math.max(1, this.#sampled));
    for (const [method, { ms, wireBytes }] of results.entries()) {
      const known = this.#samples[method]!;
      known.ms += weight * (ms / bytes - known.ms);
      known.wireBytes += weight * (Math.min(1, wireBytes / bytes) - known.wireBytes);
    }
    this.#sampled++;
    this.#sampleAtMs = this.#nowMs + SAMPLE_MS;
  }

  /** Packets have been sent, with the method of `next` but for those that were in hand when it changed. */
  progress({ bytes, prepareMs, prepareCpuMs, heldMs, msPerWireByte, wireBytes, ms }: Progress): void {
    const packets = bytes / PACKET_GUEST_BYTES;
    this.#nowMs += ms;
    this.#msPerWireByte = msPerWireByte;
    if (this.#trial !== null) {
      this.#judgeTrial(this.#trial, packets, bytes, ms);
      return;
    }
    const sums = this.#sums;
    const kept = 1 - Math.min(1, packets / MEMORY_PACKETS, ms / MEMORY_MS);
    sums.packets += packets;
    sums.bytes = sums.bytes * kept + bytes;
    sums.prepareMs = sums.prepareMs * kept + prepareMs / this.#channels;
    sums.prepareCpuMs = sums.prepareCpuMs * kept + prepareCpuMs / this.#channels;
    sums.heldMs = sums.heldMs * kept + heldMs / this.#channels;
    sums.ms = sums.ms * kept + ms;
    sums.wireBytes = sums.wireBytes * kept + wireBytes;
    this.#sinceMs += ms;
    this.#noticeLink();
    this.#noticeChange(packets, bytes, ms);
    if (this.#before !== null) this.#judgeProbation(this.#before);
    else if (sums.packets > 0 && this.#sampled >= FIRST_SAMPLES) this.#look();
  }

  /** A link that is full of packets as they are will bear no more of them later, whatever a pause in between lets it seem. */
  #noticeLink(): void {
    const { packets, prepareMs, heldMs, ms, wireBytes } = this.#sums;
    if (this.#method !== 0 || packets < WARM_PACKETS || this.#sinceMs < WARM_MS || prepareMs > SHOWING * ms) return;
    this.#link.msPerWireByte = Math.max(0, ms - heldMs) / wireBytes;
    this.#link.untilMs = this.#nowMs + Math.min(SHOWN_TIMES * this.#sinceMs, SHOWN_MS_MAX);
  }

  /** What was found out on another link, or of other contents, is forgotten. */
  #noticeChange(packets: number, bytes: number, ms: number): void {
    const latest = this.#latest;
    add(latest, packets, bytes, ms);
    if (latest.packets < LATEST_PACKETS || latest.ms < LATEST_MS) return;
    const change = latest.ms / latest.bytes / this.#usualMsPerByte;
    if (this.#usualMsPerByte > 0 && (change > CHANGED || change < 1 / CHANGED)) {
      for (const failure of this.#failures) Object.assign(failure, { times: 0, notBeforeMs: 0, needMs: LEAST_LOSS_MS });
      this.#lostMs = Math.min(this.#lostMs, LOSS_PART * this.#nowMs);
      this.#before = null;
      this.#link.untilMs = 0;
      this.#use(this.#method);
    }
    Object.assign(latest, { packets: 0, bytes: 0, ms: 0 });
  }

  #judgeTrial(trial: Trial, packets: number, bytes: number, ms: number): void {
    if (trial.settling > 0) {
      trial.settling -= packets;
      return;
    }
    const { all, late } = trial;
    const before = this.#usedMs;
    if (all.ms >= HALF_MS && all.packets >= HALF_PACKETS) add(late, packets, bytes, ms);
    add(all, packets, bytes, ms);
    const lostMs = all.ms - all.bytes * before;
    if (all.packets >= CLEAR_PACKETS && lostMs > this.#allowanceMs) {
      this.#fail(trial.method, lostMs);
    } else {
      if (late.ms < HALF_MS || late.packets < HALF_PACKETS) return;
      const ratio = late.ms / late.bytes / before;
      const doubt = DOUBT * Math.sqrt(HALF_PACKETS / late.packets);
      if (late.packets < LONG_HALF_PACKETS && ratio > 1 - doubt && ratio < 1 + doubt / 2) return;
      if (ratio > KEPT) this.#fail(trial.method, lostMs);
      else this.#replaceBy(trial.method);
    }
    this.#lostMs += Math.max(0, lostMs);
    this.#trial = null;
  }

  /** What the next trial may lose. */
  get #allowanceMs(): number {
    const packetMs = PACKET_GUEST_BYTES * this.#usedMs;
    return Math.max(FIRST_LOSS_MS, FIRST_LOSS_PACKETS * packetMs) + LOSS_PART * this.#nowMs - this.#lostMs;
  }

  #judgeProbation({ method, msPerByte }: { readonly method: number; readonly msPerByte: number }): void {
    if (this.#sums.packets < PROBATION_PACKETS || this.#sinceMs < PROBATION_MS) return;
    this.#before = null;
    const { ms, bytes, heldMs } = this.#sums;
    if (heldMs < LEFT * ms && ms / bytes > WORSE * msPerByte) {
      this.#fail(this.#method, 0);
      this.#use(method);
    }
  }

  /** Uses another method, on probation. */
  #replaceBy(method: number): void {
    this.#fail(this.#method, 0);
    this.#before = { method: this.#method, msPerByte: this.#usedMs };
    this.#use(method);
  }

  #use(method: number): void {
    this.#method = method;
    this.#usualMsPerByte = 0;
    this.#sinceMs = 0;
    Object.assign(this.#latest, { packets: 0, bytes: 0, ms: 0 });
    Object.assign(this.#sums, { packets: 0, bytes: 0, prepareMs: 0, prepareCpuMs: 0, heldMs: 0, ms: 0, wireBytes: 0 });
  }

  #fail(method: number, lostMs: number): void {
    const failure = this.#failures[method]!;
    const restMs = Math.max(REST_MS, REST_LOSSES * lostMs) * 2 ** Math.min(failure.times, REST_DOUBLINGS_MAX);
    failure.notBeforeMs = this.#nowMs + restMs;
    failure.times++;
    failure.needMs = Math.max(LEAST_LOSS_MS, NEED * lostMs);
  }

  /** Turns to the method that promises most, if one promises enough: by a trial, unless that is not needed. */
  #look(): void {
    const rested = this.#samples
      .map((_, method) => method)
      .filter((method) => method !== this.#method && this.#nowMs >= this.#failures[method]!.notBeforeMs);
    const sparing = this.#mostSparing(rested);
    if (sparing !== null) {
      this.#replaceBy(sparing);
      return;
    }
    if (this.#sums.packets < WARM_PACKETS || this.#sinceMs < WARM_MS) return;
    if (this.#usualMsPerByte === 0) this.#usualMsPerByte = this.#usedMs;
    const best = this.#mostPromising(rested.filter((method) => this.#allowanceMs >= this.#failures[method]!.needMs));
    if (best === null) return;
    const nothing = { packets: 0, bytes: 0, ms: 0 };
    this.#trial = {
      method: best,
      settling: SETTLING_PACKETS + this.#channels,
      all: { ...nothing },
      late: { ...nothing },
    };
  }

  /**
   * The one of them that takes least under the limit, if that is worth it: as long as the limit makes its bytes take,
   * or as its work does with as much again for what a destination has to do.
   */
  #mostSparing(methods: readonly number[]): number | null {
    let best: number | null = null;
    let least = SPARING * this.#limitedMs;
    for (const method of methods) {
      const wirePart = this.#wirePart(method);
      const workMs = this.#prepareCpuMs(method) + wirePart * this.#linkMs;
      const ms = Math.max(wirePart * this.#limitedMs, workMs / BUSY);
      if (ms >= least) continue;
      best = method;
      least = ms;
    }
    return best;
  }

  /** @returns the one of them that promises most, if that is enough. */
  #mostPromising(methods: readonly number[]): number | null {
    let best: number | null = null;
    let bestMs = PROMISE * this.#usedMs;
    for (const method of methods) {
      const ms = this.#foresee(method);
      if (ms >= bestMs) continue;
      best = method;
      bestMs = ms;
    }
    return best;
  }

  /**
   * What a byte would take at best: the link idle while a packet is prepared, or busy all the time, whichever makes
   * less of it; and no less than the limit makes it take, or the link as it was last seen. Sums are per channel, for they prepare at once.
   */
  #foresee(method: number): number {
    const { bytes, prepareMs, prepareCpuMs, heldMs, ms, wireBytes } = this.#sums;
    const wirePart = this.#wirePart(method);
    // On a machine that is short of CPU time every method waits for its turn in proportion.
    const prepare = Math.max(1, prepareMs / prepareCpuMs) * this.#prepareCpuMs(method);
    const inTurns = prepare + wirePart * this.#linkMs;
    const atOnce = Math.max(prepare, (wirePart * Math.max(0, ms - heldMs)) / bytes);
    const { msPerWireByte, untilMs } = this.#link;
    const seenMs = this.#nowMs < untilMs ? (wireBytes * msPerWireByte) / bytes : 0;
    return Math.max(Math.min(inTurns, atOnce), wirePart * Math.max(seenMs, this.#limitedMs));
  }

  /** Bytes on the wire, as a part of what the method in use makes of the same pages. */
  #wirePart(method: number): number {
    return this.#samples[method]!.wireBytes / this.#samples[this.#method]!.wireBytes;
  }

  /** What reading and compressing a byte would take, on all channels at once. */
  #prepareCpuMs(method: number): number {
    const { bytes, prepareCpuMs } = this.#sums;
    const { ms: compressMs } = this.#samples[method]!;
    const moreMs = (compressMs - this.#samples[this.#method]!.ms) / this.#channels;
    return Math.max(compressMs / this.#channels, prepareCpuMs / bytes + moreMs);
  }

  /** What the link has of a byte's time: neither preparing it nor waiting until the limit lets it go. */
  get #linkMs(): number {
    const { bytes, prepareMs, heldMs, ms } = this.#sums;
    return Math.max(0, ms - prepareMs - heldMs) / bytes;
  }

  /** What the limit makes a byte take with the method in use, once it has no credit left. */
  get #limitedMs(): number {
    return (this.#sums.wireBytes * this.#msPerWireByte) / this.#sums.bytes;
  }

  /** What a byte takes with the method in use. */
  get #usedMs(): number {
    return Math.max(this.#sums.ms / this.#sums.bytes, this.#limitedMs);
  }
}

function add(sums: Sums, packets: number, bytes: number, ms: number): void {
  sums.packets += packets;
  sums.bytes += bytes;
  sums.ms += ms;
}
