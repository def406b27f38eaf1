/**
 * Live migration: one guest that writes, moved once, by whatever program.
 */
import type { LiveTerms } from "./live-report.js";

export type LiveJob = LiveTerms & {
  /** Bytes of RAM that the guest is to dirty a second. */
  readonly rate: number;
};

export type LiveFigures = {
  readonly totalMs: number;
  readonly downtimeMs: number;
  readonly rounds: number;
};

export type LiveOutcome = {
  /** Bytes dirtied a second until the guest was paused, or until we gave up. */
  readonly reachedRate: number;
  /** Null where it had not ended within the limit. */
  readonly figures: LiveFigures | null;
};

export type LiveProgram = (job: LiveJob) => Promise<LiveOutcome>;

/** The time limit ends a migration, not the number of rounds. */
export const ROUNDS_MAX = 1_000_000;

/** What resolves within a time, or null. A later failure of `promise` is nobody's business any more. */
export async function within<T>(promise: Promise<T>, timeoutMs: number): Promise<T | null> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<null>((resolve) => {
    timer = setTimeout(() => resolve(null), timeoutMs);
  });
  promise.catch(() => {});
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}
