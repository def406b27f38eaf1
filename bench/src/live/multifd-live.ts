/**
 * multifd live: the demo's guest, moved by `multifd migrate` into `multifd receive`.
 *
 * Four processes: the guest, the waiting guest, and our two commands. The downtime
 * is the longer of two: what the source saw from the pause to the acknowledgement,
 * as QEMU counts its own, and what the guest saw from its last write to its next.
 */
import { LiveGuest } from "@multifd/cli";
import { createScratchDir, removeScratchDir } from "@multifd/test/peers";
import { EventProcess, type ProcessEvent } from "../event-process.js";
import { heldCommand } from "../multifd-endpoint.js";
import { startGuest } from "./guest.js";
import { type LiveJob, type LiveOutcome, type LiveProgram, ROUNDS_MAX, within } from "./live-migration.js";

const READY_TIMEOUT_MS = 30_000;
const LAST_WORD_MS = 10_000;
const PAGE_BYTES = 4096;

export const multifdLive: LiveProgram = async (job) => (await moveGuest(job)).outcome;

export type WatchedMigration = {
  readonly outcome: LiveOutcome;
  /** What the source told, with the moments at which it was heard. */
  readonly events: readonly ProcessEvent[];
};

export async function moveGuest(job: LiveJob): Promise<WatchedMigration> {
  const dir = createScratchDir("disk");
  const address = (name: string) => `unix:${dir}/${name}`;
  const started: EventProcess[] = [];
  const keep = (process: EventProcess) => {
    started.push(process);
    return process;
  };
  try {
    keep(await startGuest(`${dir}/incoming`, job.ramBytes, "--incoming"));
    const pace = ["--rate", `${job.rate}`, "--working-set", `${job.workingSetBytes}`];
    keep(await startGuest(`${dir}/guest`, job.ramBytes, ...pace));
    const channels = ["--channels", `${job.channels}`];
    const receive = heldCommand("receive", "--json", "--guest", address("incoming"), "--listen", address("m"));
    const receiver = keep(new EventProcess("multifd receive", process.execPath, [...receive, ...channels]));
    await receiver.expect("listening", READY_TIMEOUT_MS);
    const before = await look(dir);
    const migrate = heldCommand("migrate", "--json", "--guest", address("guest"), "--to", address("m"), ...channels);
    const limits = ["--downtime-limit", `${job.downtimeLimitMs}`, "--rounds-max", `${ROUNDS_MAX}`];
    const words = [...migrate, ...limits, "--max-bandwidth", `${job.maxBandwidth}`];
    const source = keep(new EventProcess("multifd migrate", process.execPath, words));
    const completed = await within(source.expect("completed", job.limitMs + READY_TIMEOUT_MS), job.limitMs);
    if (completed === null) {
      await source.stop(); // gives the guest's socket free; the guest runs on
      return { outcome: { reachedRate: rateBetween(before, await look(dir)), figures: null }, events: source.events };
    }
    const received = await receiver.expect("completed", LAST_WORD_MS);
    const pausedMs = source.events.findLast(({ event }) => event === "switchover")?.heardMs ?? completed.heardMs;
    await source.release();
    const after = { ...(await look(dir)), atMs: pausedMs };
    const figures = {
      totalMs: Number(completed.totalMs),
      downtimeMs: Math.max(Number(completed.downtimeMs), Number(received.downtimeMs)),
      rounds: Number(completed.rounds),
    };
    return { outcome: { reachedRate: rateBetween(before, after), figures }, events: source.events };
  } finally {
    for (const process of started.reverse()) await process.stop();
    removeScratchDir(dir);
  }
}

type Look = { readonly pages: number; readonly atMs: number };

/** How far the guest has come. It serves one connection at a time, so this one is closed at once. */
async function look(dir: string): Promise<Look> {
  const guest = await LiveGuest.open({ kind: "unix", path: `${dir}/guest` });
  try {
    const { pagesWritten } = await guest.status();
    return { pages: pagesWritten, atMs: performance.now() };
  } finally {
    guest.close();
  }
}

function rateBetween(before: Look, after: Look): number {
  return ((after.pages - before.pages) * PAGE_BYTES * 1000) / Math.max(1, after.atMs - before.atMs);
}
