/**
 * QEMU live: a boot-sector guest under TCG, moved by QEMU into a QEMU or into `multifd receive`.
 *
 * The guest counts in every page of its working set. It first sweeps it once as
 * fast as it can, so that no page is zero, and is then held to the rate. Downtime and total time
 * are what the source's QEMU says.
 */
import { join } from "node:path";
import {
  assertSameBytes,
  type BootGuest,
  bootGuestSector,
  checkBootGuest,
  createScratchDir,
  type MigrationOutcome,
  paceBootGuest,
  QemuProcess,
  type QemuVersion,
  readBootGuest,
  removeScratchDir,
  waitForProgress,
  waitForSweep,
} from "@multifd/test/peers";
import { RAM_BLOCK } from "../endpoint.js";
import { startDestination } from "../event-endpoint.js";
import { heldCommand } from "../multifd-endpoint.js";
import { expectCompleted } from "../qemu-endpoint.js";
import type { LiveFigures, LiveJob, LiveProgram } from "./live-migration.js";

const PAGE_BYTES = 4096;
const TICKS_PER_SECOND = 1000;
const FIRST_BYTE = 2 ** 20;
/** Counting so many pages takes longer than a tick, so the guest hardly sleeps. */
const UNPACED = 2 ** 14;
const SWEEP_TIMEOUT_MS = 60_000;

type Arriving = {
  readonly address: string;
  /** Resolves when the guest is there, as it was here. */
  readonly arrived: () => Promise<void>;
  readonly stop: () => Promise<void>;
};

/** @param destination  Who takes the guest. */
export function qemuLive(version: QemuVersion, destination: "qemu" | "multifd"): LiveProgram {
  return async (job) => {
    const dir = createScratchDir("ram");
    const ends: { stop(): Promise<void> }[] = [];
    const keep = <End extends { stop(): Promise<void> }>(end: End) => {
      ends.push(end);
      return end;
    };
    try {
      const guest: BootGuest = {
        firstByte: FIRST_BYTE,
        strideBytes: PAGE_BYTES,
        pageCount: job.workingSetBytes / PAGE_BYTES,
        pagesPerTick: UNPACED,
      };
      const vm = { version, bootSector: bootGuestSector(guest) };
      const [sourceRam, receivedRam] = [join(dir, "source"), join(dir, "received")];
      const memory = (path: string) => [{ id: RAM_BLOCK, path, bytes: job.ramBytes }];
      const source = keep(await QemuProcess.start({ ...vm, memory: memory(sourceRam) }));
      await waitForSweep(sourceRam, 1, SWEEP_TIMEOUT_MS);
      paceBootGuest(sourceRam, Math.max(1, Math.round(job.rate / PAGE_BYTES / TICKS_PER_SECOND)));
      const setup = { channels: job.channels, downtimeLimitMs: job.downtimeLimitMs };
      const address = `unix:${source.dir}/migration.sock`;
      const arriving =
        destination === "multifd"
          ? await intoFiles(job, address, { sourceRam, receivedRam, devices: join(dir, "devices") })
          : await intoQemu(
              await QemuProcess.start({ ...vm, memory: memory(receivedRam), incoming: "defer" }),
              setup,
              address,
              receivedRam,
            );
      keep(arriving);
      await source.setMigration(setup);
      const before = look(sourceRam, guest);
      await source.migrateTo(arriving.address);
      const outcome = await endOf(source, job.limitMs);
      const reached = (elapsedMs: number) =>
        ((look(sourceRam, guest).pages - before.pages) * PAGE_BYTES * 1000) / Math.max(1, elapsedMs);
      if (outcome === null) return { reachedRate: reached(performance.now() - before.atMs), figures: null };
      expectCompleted(outcome, `QEMU ${version} as the source of a live guest`);
      const figures = figuresOf(outcome);
      checkBootGuest(sourceRam, guest);
      await arriving.arrived();
      return { reachedRate: reached(figures.totalMs - figures.downtimeMs), figures };
    } finally {
      for (const end of ends.reverse()) await end.stop();
      removeScratchDir(dir);
    }
  };
}

async function intoQemu(
  vm: QemuProcess,
  setup: Parameters<QemuProcess["setMigration"]>[0],
  address: string,
  receivedRam: string,
): Promise<Arriving> {
  try {
    await vm.setMigration(setup);
    await vm.listen(address);
  } catch (error) {
    await vm.stop();
    throw error;
  }
  return {
    address,
    arrived: async () => {
      await waitForProgress(receivedRam);
    },
    stop: () => vm.stop(),
  };
}

type Files = { readonly sourceRam: string; readonly receivedRam: string; readonly devices: string };

async function intoFiles(job: LiveJob, listen: string, files: Files): Promise<Arriving> {
  const words = ["receive", "--json", "--channels", `${job.channels}`, "--listen", listen];
  const ram = ["--ram", `${RAM_BLOCK}=${files.receivedRam}`, "--devices", files.devices];
  const { address, completed, stop } = await startDestination(
    "multifd receive",
    process.execPath,
    heldCommand(...words, ...ram),
  );
  return {
    address,
    arrived: async () => {
      await completed();
      assertSameBytes(files.sourceRam, files.receivedRam);
    },
    stop,
  };
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

/** Source: QEMU 11.1, qapi/migration.json, MigrationInfo and MigrationStats. */
function figuresOf({ info }: MigrationOutcome): LiveFigures {
  const said = info as {
    readonly "total-time": number;
    readonly downtime: number;
    readonly ram: { readonly "dirty-sync-count": number };
  };
  return { totalMs: said["total-time"], downtimeMs: said.downtime, rounds: said.ram["dirty-sync-count"] };
}

function look(ramPath: string, guest: BootGuest): { readonly pages: number; readonly atMs: number } {
  const { sweep, page } = readBootGuest(ramPath) ?? { sweep: 0, page: 0 };
  return { pages: sweep * guest.pageCount + page, atMs: performance.now() };
}
