/**
 * Precopy: sends a guest's RAM while the guest runs, until it is time to stop it.
 *
 * All of RAM goes first, then what has been written meanwhile, round by round,
 * until convergence says that the rest is short enough, and the devices have
 * given what they can of a running guest. RAM that is only passed on has no
 * convergence: its feed says what a round is and when there is no more.
 *
 * What is dirty when this ends is the last round's, which is sent by whoever asked.
 *
 * Runs on the coordinator thread; owns nothing.
 */
import type { Attempt } from "./attempt.js";
import { Convergence, willNotConverge } from "./convergence.js";
import type { DevicePump } from "./device-pump.js";
import type { DirtyPages } from "./dirty-pages.js";
import type { RamFeed } from "./guest.js";
import type { SourceJob } from "./source-job.js";
import type { SourceRounds } from "./source-rounds.js";

export type PrecopyParts = {
  readonly job: SourceJob;
  readonly attempt: Attempt;
  readonly rounds: SourceRounds;
  readonly dirty: DirtyPages;
  readonly pump: DevicePump;
  /** Stops the guest. */
  readonly pause: () => Promise<void>;
};

/**
 * Sends rounds while the guest runs, and pauses it.
 *
 * A guest that nobody runs any more is neither sent nor paused: all of it is the last round's.
 *
 * @throws {ConfigError} WILL_NOT_CONVERGE. @throws what the attempt has failed of.
 */
export async function sendRunning(parts: PrecopyParts): Promise<void> {
  const { job, dirty } = parts;
  const { tracker, feed } = job.guest;
  if (tracker === null) {
    dirty.fill();
    return;
  }
  await dirty.track();
  if (feed !== undefined) {
    await passOn(parts, feed);
    return;
  }
  dirty.fill();
  await converge(parts);
  dirty.harvest();
}

async function converge(parts: PrecopyParts): Promise<void> {
  const { job, rounds, dirty, pump } = parts;
  const convergence = new Convergence(job);
  const running = pump.sendRunning();
  running.catch(() => {}); // it has told its failure
  let companions: Promise<void> | null = null;
  for (;;) {
    const before = rounds.totals.normalPages;
    const startedMs = performance.now();
    await rounds.send(dirty, companions, "iterate");
    await rounds.close("iterate");
    const elapsedMs = performance.now() - startedMs;
    const normalBytes = (rounds.totals.normalPages - before) * rounds.pageBytes;
    await dirty.harvestRunning();
    const dirtyPages = dirty.count;
    // A round that was kept open for the devices says nothing of the link.
    const figures = companions === null ? { normalBytes, elapsedMs } : { normalBytes: 0, elapsedMs: 0 };
    const verdict = convergence.judge(figures, dirtyPages * rounds.pageBytes);
    rounds.meter.expect(verdict.expectedDowntimeMs);
    if (verdict.kind === "another-round") continue;
    if (verdict.kind === "will-not-converge")
      throw willNotConverge(job.downtimeLimitMs, verdict.expectedDowntimeMs, rounds.count);
    if (pump.isRunning) {
      companions = running;
      continue;
    }
    await switchOver(parts, dirtyPages, Math.round(verdict.expectedDowntimeMs));
    return;
  }
}

/** Sends what a feed brings, round by round. */
async function passOn(parts: PrecopyParts, feed: RamFeed): Promise<void> {
  const { attempt, rounds, dirty } = parts;
  while (await attempt.failure.race(feed.more())) {
    dirty.harvest();
    await rounds.send(dirty, null, "iterate");
    await rounds.close("iterate");
    feed.sent();
    attempt.step = "waiting for RAM to send";
  }
  dirty.harvest();
  await switchOver(parts, dirty.count, 0);
}

async function switchOver({ job, rounds, pause }: PrecopyParts, dirtyPages: number, expectedDowntimeMs: number) {
  job.onEvent({ event: "switchover", round: rounds.count + 1, dirtyPages, expectedDowntimeMs });
  await pause();
}
