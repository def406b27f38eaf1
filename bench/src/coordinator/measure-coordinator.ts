/**
 * Measures the coordinator alone, from a gibibyte to a simulated tebibyte, and harvests of real guests.
 */
import { execFile } from "node:child_process";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { LiveGuest } from "@multifd/cli";
import { DirtyBitmap } from "@multifd/memory";
import { createScratchDir, removeScratchDir } from "@multifd/test/peers";
import { startGuest } from "../live/guest.js";
import { spread } from "../statistics.js";
import type { CoordinatorPoint, CoordinatorReport, HarvestPoint } from "./coordinator-report.js";

const PLAN_ROUNDS = fileURLToPath(new URL("plan-rounds.js", import.meta.url));
const PLAN_TIMEOUT_MS = 600_000;
const GIB = 2 ** 30;
/** Up to a simulated tebibyte. */
export const SIMULATED_SIZES: readonly number[] = [1, 4, 16, 64, 256, 1024].map((gib) => gib * GIB);

/** @param guestSizes  Real RAM, each in turn. */
export async function measureCoordinator(
  simulatedSizes: readonly number[],
  guestSizes: readonly number[],
  runs: number,
  say: (line: string) => void,
): Promise<CoordinatorReport> {
  const points: CoordinatorPoint[] = [];
  for (const ramBytes of simulatedSizes) {
    const words = [PLAN_ROUNDS, `${ramBytes}`, `${runs}`];
    const { stdout } = await promisify(execFile)(process.execPath, words, { timeout: PLAN_TIMEOUT_MS });
    const point = JSON.parse(stdout) as CoordinatorPoint;
    points.push(point);
    const [first] = point.rounds;
    say(
      `coordinator, ${ramBytes / GIB} GiB simulated: ${(point.memoryBytes / 2 ** 20).toFixed(0)} MiB; ` +
        `a round of every page: harvest ${first?.harvestMs.median.toFixed(1)} ms, publish ${first?.publishMs.median.toFixed(0)} ms`,
    );
  }
  const harvests: HarvestPoint[] = [];
  for (const ramBytes of guestSizes) {
    const point = await harvestGuest(ramBytes, runs);
    harvests.push(point);
    say(
      `harvest, a guest of ${ramBytes / GIB} GiB: every page ${point.everyPageMs.toFixed(1)} ms, no page ${point.noPageMs.median.toFixed(2)} ms`,
    );
  }
  return { points, harvests };
}

/** A guest that has filled its RAM and writes no more: all of it is dirty once, and then nothing. */
async function harvestGuest(ramBytes: number, runs: number): Promise<HarvestPoint> {
  const dir = createScratchDir("disk");
  const path = `${dir}/guest`;
  const process = await startGuest(path, ramBytes, "--rate", "0");
  try {
    const guest = await LiveGuest.open({ kind: "unix", path });
    try {
      const blocks = guest.ram.map(({ block }) => block);
      const startedMs = performance.now();
      await guest.tracker.start(blocks); // harvests once
      const everyPageMs = performance.now() - startedMs;
      const noPage: number[] = [];
      for (let run = 0; run < runs; run++) {
        const dirty = new DirtyBitmap(blocks[0]!.pageCount);
        const beganMs = performance.now();
        guest.tracker.harvest(0, dirty);
        noPage.push(performance.now() - beganMs);
      }
      await guest.tracker.stop();
      return { ramBytes, everyPageMs, noPageMs: spread(noPage) };
    } finally {
      guest.close();
    }
  } finally {
    await process.stop();
    removeScratchDir(dir);
  }
}
