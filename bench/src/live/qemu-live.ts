/**
 * QEMU live: a QEMU's guest, moved by QEMU into a QEMU, by QEMU into `multifd receive`, or
 * by `multifd qemu migrate` into a QEMU.
 *
 * The guest is the same in all three. Downtime, total time and rounds are what the source says: the
 * source's QEMU, or our command.
 */
import { join } from "node:path";
import {
  assertSameBytes,
  createScratchDir,
  type MigrationOutcome,
  type QemuProcess,
  type QemuVersion,
  removeScratchDir,
  waitForProgress,
} from "@multifd/test/peers";
import { RAM_BLOCK } from "../endpoint.js";
import { startDestination } from "../event-endpoint.js";
import { EventProcess } from "../event-process.js";
import { heldCommand } from "../multifd-endpoint.js";
import { expectCompleted } from "../qemu-endpoint.js";
import { type LiveFigures, type LiveJob, type LiveProgram, ROUNDS_MAX, within } from "./live-migration.js";
import { LiveVm, monitorPath } from "./live-vm.js";

const READY_TIMEOUT_MS = 20_000;

type Stage = {
  readonly version: QemuVersion;
  readonly job: LiveJob;
  readonly source: LiveVm;
  /** Where the guest's RAM goes; does not exist yet. */
  readonly receivedPath: string;
  readonly dir: string;
  /** Ended when all is over, the last one first. */
  readonly keep: (end: { stop(): Promise<void> }) => void;
};

type Move = {
  /** Resolves when the source says that the guest has gone; to null where it does not within the limit. */
  readonly go: () => Promise<LiveFigures | null>;
  /** Resolves when the guest has been seen at the destination. */
  readonly arrived: () => Promise<void>;
};

/** Makes everything ready for a move. */
type Mover = (stage: Stage) => Promise<Move>;

const movers = {
  "into QEMU": moveIntoQemu,
  "into files": moveIntoFiles,
  "by multifd": moveByMultifd,
} as const satisfies Readonly<Record<string, Mover>>;

/** @param how  By whom the guest is moved, and into what. */
export function qemuLive(version: QemuVersion, how: keyof typeof movers): LiveProgram {
  return async (job) => {
    const dir = createScratchDir("ram");
    const ends: { stop(): Promise<void> }[] = [];
    const keep = (end: { stop(): Promise<void> }) => void ends.push(end);
    try {
      const source = await LiveVm.start(version, job, join(dir, "source"));
      keep(source.vm);
      const move = await movers[how]({ version, job, source, receivedPath: join(dir, "received"), dir, keep });
      source.beginCount();
      const figures = await move.go();
      const reachedRate = source.reachedRate(figures?.downtimeMs ?? 0);
      if (figures === null) return { reachedRate, figures };
      source.check();
      await move.arrived();
      return { reachedRate, figures };
    } finally {
      for (const end of ends.reverse()) await end.stop();
      removeScratchDir(dir);
    }
  };
}

async function moveIntoQemu(stage: Stage): Promise<Move> {
  const { job, receivedPath, keep } = stage;
  const destination = await LiveVm.startWaiting(stage.version, job, receivedPath);
  keep(destination);
  await destination.setMigration(setupOf(job));
  const address = `unix:${destination.dir}/migration.sock`;
  await destination.listen(address);
  return { go: () => goByQemu(stage, address), arrived: () => runsAt(receivedPath) };
}

async function moveIntoFiles(stage: Stage): Promise<Move> {
  const { job, source, receivedPath, dir, keep } = stage;
  const words = ["receive", "--json", "--channels", `${job.channels}`, "--listen", `unix:${dir}/migration.sock`];
  const files = ["--ram", `${RAM_BLOCK}=${receivedPath}`, "--devices", join(dir, "devices")];
  const receiver = await startDestination("multifd receive", process.execPath, heldCommand(...words, ...files));
  keep(receiver);
  return {
    go: () => goByQemu(stage, receiver.address),
    arrived: async () => {
      await receiver.completed();
      assertSameBytes(source.ramPath, receivedPath);
    },
  };
}

async function moveByMultifd({ version, job, source, receivedPath, dir, keep }: Stage): Promise<Move> {
  keep(await LiveVm.startWaiting(version, job, receivedPath));
  const run = (name: string, ...words: readonly string[]) => {
    const command = new EventProcess(`multifd qemu ${name}`, process.execPath, heldCommand("qemu", name, ...words));
    keep(command);
    return command;
  };
  const shared = ["--json", "--channels", `${job.channels}`];
  const address = `unix:${dir}/migration.sock`;
  const incoming = run("incoming", "--qmp", monitorPath(receivedPath), "--listen", address, ...shared);
  await incoming.expect("listening", READY_TIMEOUT_MS);
  return {
    go: async () => {
      const limits = ["--downtime-limit", `${job.downtimeLimitMs}`, "--rounds-max", `${ROUNDS_MAX}`];
      const pace = ["--max-bandwidth", `${job.maxBandwidth}`];
      const words = ["--qmp", monitorPath(source.ramPath), "--to", address, ...limits, ...pace, ...shared];
      const moving = run("migrate", ...words);
      const said = await within(moving.expect("completed", job.limitMs + READY_TIMEOUT_MS), job.limitMs);
      if (said === null) return null;
      const { totalMs, downtimeMs, rounds } = said;
      return { totalMs: Number(totalMs), downtimeMs: Number(downtimeMs), rounds: Number(rounds) };
    },
    arrived: () => runsAt(receivedPath),
  };
}

function setupOf({ channels, downtimeLimitMs, maxBandwidth }: LiveJob) {
  return { channels, downtimeLimitMs, ...(maxBandwidth > 0 && { maxBandwidth }) };
}

async function runsAt(ramPath: string): Promise<void> {
  await waitForProgress(ramPath);
}

async function goByQemu({ version, job, source: { vm } }: Stage, address: string): Promise<LiveFigures | null> {
  await vm.setMigration(setupOf(job));
  await vm.migrateTo(address);
  const outcome = await endOf(vm, job.limitMs);
  if (outcome === null) return null;
  expectCompleted(outcome, `QEMU ${version} as the source of a live guest`);
  // Source: QEMU 11.1, qapi/migration.json, MigrationInfo and MigrationStats.
  const said = outcome.info as {
    readonly "total-time": number;
    readonly downtime: number;
    readonly ram: { readonly "dirty-sync-count": number };
  };
  return { totalMs: said["total-time"], downtimeMs: said.downtime, rounds: said.ram["dirty-sync-count"] };
}

/** @returns null where the migration still goes on after that time. */
async function endOf(vm: QemuProcess, limitMs: number): Promise<MigrationOutcome | null> {
  try {
    return await vm.waitMigration(limitMs);
  } catch (error) {
    const { status } = (await vm.execute("query-migrate")) as { readonly status?: string };
    if (status === "active") return null;
    throw error;
  }
}
