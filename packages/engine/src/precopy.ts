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

/** How long a destination may take to answer that it has everything, before the guest is stopped all the same. */
const CATCH_UP_MS = 2000;
/** A round of a guest that is about to stop, at least. */
const ROUND_MS = 10;

export type PrecopyParts = {
  readonly job: SourceJob;
  readonly attempt: Attempt;
  readonly rounds: SourceRounds;
  readonly dirty: DirtyPages;
  readonly pump: DevicePump;
  /** Resolves when the destination has taken in what was sent. */
  readonly caughtUp: () => Promise<void>;
  /** Brings the guest to its stop, some time after; null where `pause` does so at once. */
  readonly stopSoon: (() => Promise<void>) | null;
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
    break;
  }
  if (parts.stopSoon !== null) {
    await catchUp(parts);
    await sendUntilStopped(parts, parts.stopSoon);
  }
  const dirtyPages = dirty.count;
  await switchOver(parts, dirtyPages, Math.round(convergence.expectedDowntimeMs(dirtyPages * rounds.pageBytes)));
  if (parts.stopSoon === null) dirty.harvest();
}

/**
 * Lets the destination take in what is under way, else the guest would stand still for that, too; for a while only, for
 * a slow link is never empty. What the guest writes meanwhile goes in a round of its own.
 */
async function catchUp({ attempt, rounds, dirty, caughtUp }: PrecopyParts): Promise<void> {
  attempt.step = "waiting for the destination to catch up";
  await attempt.failure.race(within(caughtUp(), CATCH_UP_MS));
  await dirty.harvestRunning();
  await rounds.send(dirty, null, "iterate");
  await rounds.close("iterate");
  await dirty.harvestRunning();
}

/**
 * The guest has been told to stop, and writes until it does: rounds go on, long enough for the guest to keep its
 * processors and short enough for the last one to be short. @returns when it stands still and its writes are harvested.
 */
async function sendUntilStopped({ rounds, dirty }: PrecopyParts, stopSoon: () => Promise<void>): Promise<void> {
  let isOver = false;
  const stopping = stopSoon().finally(() => {
    isOver = true;
    rounds.hurry();
  });
  const sendOn = async () => {
    while (!isOver) {
      // Open for a while when its pages have gone: for what the devices have until then.
      await rounds.send(dirty, within(stopping, ROUND_MS), "iterate");
      await rounds.close("iterate");
      if (!isOver) await dirty.harvestRunning();
    }
  };
  // Seen through, whatever fails meanwhile: a stop that came after `resume` would leave the guest standing.
  const [sent, stopped] = await Promise.allSettled([sendOn(), stopping]);
  for (const end of [sent, stopped]) if (end.status === "rejected") throw end.reason;
  dirty.harvest();
}

/** Waits for the end of `promise`, however it ends, but no longer than that. */
async function within(promise: Promise<void>, timeoutMs: number): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, timeoutMs);
  });
  await Promise.race([promise.catch(() => {}), late]);
  clearTimeout(timer);
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
