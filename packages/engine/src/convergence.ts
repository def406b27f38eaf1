/**
 * Convergence: when to stop the guest.
 *
 * The guest may be paused once what is dirty can be sent within the downtime
 * limit at the rate the link has lately shown. The rate counts pages with
 * contents only: zero pages cost nothing, and the first round, full of them,
 * would promise a speed that the last one cannot keep.
 *
 * Allowed is not yet best: while rounds leave less dirty than the best before them, the guest is
 * let run for another; at the third that does not it is stopped. Each of them is expected to last
 * no longer than the limit, and those that gain get shorter, so that together they take twelve times
 * the limit at most.
 *
 * Pure: numbers in, a verdict out.
 */
import { ConfigError } from "@multifd/protocol";

export type RoundFigures = {
  /** Guest RAM of pages that had contents. */
  readonly normalBytes: number;
  readonly elapsedMs: number;
};

export type Verdict =
  | { readonly kind: "another-round"; readonly expectedDowntimeMs: number }
  | { readonly kind: "switch-over"; readonly expectedDowntimeMs: number; readonly forced: boolean }
  | { readonly kind: "will-not-converge"; readonly expectedDowntimeMs: number };

export type ConvergenceLimits = {
  readonly downtimeLimitMs: number;
  /** Rounds while the guest runs. A switchover that is to be forced anyway comes sooner, once rounds gain nothing. */
  readonly roundsMax: number;
  readonly atRoundLimit: "fail" | "switchover";
};

/** So many rounds in a row that leave as much dirty as the best before: the guest writes all it has, every time. */
const ROUNDS_WITHOUT_GAIN_MAX = 4;
/** Less than this of the best before counts as gain. */
const GAIN = 0.9;
/** So many rounds, of those that the limit allows, without gain: one or two may have been unlucky. */
const ALLOWED_WITHOUT_GAIN_MAX = 3;
/** A rest this short is sent in less time than stopping the guest takes. */
const SHORT_MS = 1;

/** A round shorter than this measures latency rather than the link, and moves the estimate little. */
const FULL_WEIGHT_MS = 200;

export class Convergence {
  readonly #limits: ConvergenceLimits;
  #bytesPerMs = 0;
  #rounds = 0;
  #leastDirtyBytes = Number.POSITIVE_INFINITY;
  /** Of the rounds that left no more than the limit allows. */
  #leastAllowedMs = Number.POSITIVE_INFINITY;
  #allowedWithoutGain = 0;
  #roundsWithoutGain = 0;

  constructor(limits: ConvergenceLimits) {
    this.#limits = limits;
  }

  /** Milliseconds that `dirtyBytes` would take; infinite before any round has been measured. */
  expectedDowntimeMs(dirtyBytes: number): number {
    if (dirtyBytes === 0) return 0;
    return this.#bytesPerMs === 0 ? Number.POSITIVE_INFINITY : dirtyBytes / this.#bytesPerMs;
  }

  /** Takes a finished round's figures and what has been dirtied meanwhile. */
  judge(round: RoundFigures, dirtyBytes: number): Verdict {
    this.#rounds++;
    const { downtimeLimitMs, roundsMax, atRoundLimit } = this.#limits;
    if (round.normalBytes > 0 && round.elapsedMs > 0) {
      const rate = round.normalBytes / round.elapsedMs;
      const weight = this.#bytesPerMs === 0 ? 1 : Math.min(1, round.elapsedMs / FULL_WEIGHT_MS);
      this.#bytesPerMs += weight * (rate - this.#bytesPerMs);
    }
    const expectedDowntimeMs = this.expectedDowntimeMs(dirtyBytes);
    if (expectedDowntimeMs <= downtimeLimitMs) {
      const another = this.#rounds < roundsMax && this.#isWorthwhile(expectedDowntimeMs);
      return another
        ? { kind: "another-round", expectedDowntimeMs }
        : { kind: "switch-over", expectedDowntimeMs, forced: false };
    }
    const hopeless = this.#gainsNothing(dirtyBytes);
    if (this.#rounds < roundsMax && !(hopeless && atRoundLimit === "switchover")) {
      return { kind: "another-round", expectedDowntimeMs };
    }
    if (atRoundLimit === "switchover") return { kind: "switch-over", expectedDowntimeMs, forced: true };
    return { kind: "will-not-converge", expectedDowntimeMs };
  }

  /** Whether the next round may be expected to make an allowed downtime shorter by much. */
  #isWorthwhile(expectedDowntimeMs: number): boolean {
    const gained = expectedDowntimeMs < GAIN * this.#leastAllowedMs;
    if (gained) this.#leastAllowedMs = expectedDowntimeMs;
    else this.#allowedWithoutGain++;
    return this.#allowedWithoutGain < ALLOWED_WITHOUT_GAIN_MAX && expectedDowntimeMs > SHORT_MS;
  }

  #gainsNothing(dirtyBytes: number): boolean {
    this.#roundsWithoutGain = dirtyBytes < GAIN * this.#leastDirtyBytes ? 0 : this.#roundsWithoutGain + 1;
    this.#leastDirtyBytes = Math.min(this.#leastDirtyBytes, dirtyBytes);
    return this.#roundsWithoutGain >= ROUNDS_WITHOUT_GAIN_MAX;
  }
}

/** What to tell after `will-not-converge`. @returns {ConfigError} WILL_NOT_CONVERGE. */
export function willNotConverge(downtimeLimitMs: number, expectedDowntimeMs: number, rounds: number): ConfigError {
  return new ConfigError(
    "WILL_NOT_CONVERGE",
    `after ${rounds} rounds the guest would still be down for ${Math.round(expectedDowntimeMs)} ms, ${downtimeLimitMs} ms are allowed; raise the downtime limit or the bandwidth, or let the round limit switch over`,
  );
}
