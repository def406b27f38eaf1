/**
 * Attempt: the frame around one migration, whichever end it is and whatever it speaks.
 *
 * Every attempt has a first failure, which ends all its waits and aborts its signal;
 * a step, which messages name; a watch for a link on which nothing moves; a clock.
 * And every attempt ends in the same order, whichever way it went:
 *
 *   act ──▶ result ────────────────┐
 *    └─ fails ──▶ settle ──▶ throw ┴──▶ nothing can cancel it or time out any more ──▶ close
 *
 * Coordinator thread only; owns the timer and the listener on the caller's signal.
 */
import type { MigrationResult, MigrationTotals } from "./events.js";
import { FirstFailure } from "./first-failure.js";
import { StallWatch } from "./stall-watch.js";

export type AttemptParts = {
  /** The first step, for messages: `connecting`. */
  readonly step: string;
  /** Cancels the attempt when it is aborted. */
  readonly signal: AbortSignal | undefined;
  /** Whether there is no turning back any more: a cancellation is not heard then. */
  readonly tooLate: () => boolean;
  /** A number that changes with every sign of life, for `watchForStall`. */
  readonly sign: () => number;
  /** Called once: wakes whoever waits for something other than the failure or the signal. */
  readonly onFail?: (error: unknown) => void;
};

export type AttemptSteps<Result> = {
  readonly act: () => Promise<Result>;
  /** Answers what failed. @returns the error to throw. */
  readonly settle: (error: unknown) => Promise<unknown>;
  /** Frees everything, however it ended. */
  readonly close: () => Promise<void>;
};

export class Attempt {
  readonly failure: FirstFailure;
  /** What is being done, for messages. */
  step: string;
  readonly #parts: AttemptParts;
  readonly #abort = new AbortController();
  #stall: StallWatch | null = null;
  #startedMs = performance.now();
  #cpu = process.cpuUsage();

  constructor(parts: AttemptParts) {
    this.#parts = parts;
    this.step = parts.step;
    this.failure = new FirstFailure((error) => {
      this.#abort.abort();
      parts.onFail?.(error);
    });
  }

  /** Aborted by the first failure. */
  get signal(): AbortSignal {
    return this.#abort.signal;
  }

  /** Runs it to its end. @throws what `settle` made of what failed. */
  async run<Result>({ act, settle, close }: AttemptSteps<Result>): Promise<Result> {
    const unwatch = this.failure.watch(this.#parts.signal, this.#parts.tooLate);
    try {
      return await act();
    } catch (error) {
      this.failure.fail(error); // if nothing failed before, this did
      throw await settle(error);
    } finally {
      unwatch();
      this.endStallWatch();
      await close();
    }
  }

  /** It begins now: the clock starts anew. */
  startClock(): void {
    this.#startedMs = performance.now();
    this.#cpu = process.cpuUsage();
  }

  /** From now on it fails when nothing moves for so long; 0 for never. Takes the place of an earlier watch. */
  watchForStall(timeoutMs: number): void {
    this.endStallWatch();
    this.#stall = new StallWatch(
      timeoutMs,
      this.#parts.sign,
      () => this.step,
      (error) => this.failure.fail(error),
    );
  }

  endStallWatch(): void {
    this.#stall?.stop();
    this.#stall = null;
  }

  /** What to tell of an attempt that went well, now. */
  completed(totals: MigrationTotals, outcome: Pick<MigrationResult, "downtimeMs" | "acknowledged">): MigrationResult {
    const cpu = process.cpuUsage(this.#cpu);
    return {
      event: "completed",
      ...totals,
      totalMs: Math.round(performance.now() - this.#startedMs),
      downtimeMs: outcome.downtimeMs,
      cpuSeconds: (cpu.user + cpu.system) / 1e6,
      acknowledged: outcome.acknowledged,
    };
  }
}
