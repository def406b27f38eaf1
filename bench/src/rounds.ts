/**
 * Rounds: every variant in turn, so that a noisy minute of the machine hits all alike.
 *
 * A first round warms up and is not counted: the first touch of fresh memory on a
 * virtual machine can be five times slower. It is also the one that is verified,
 * byte by byte. Each counted round begins with another variant, so that none
 * always follows the same one. Every migration gets a fresh destination file.
 */
import { rmSync } from "node:fs";
import { assertSameBytes, createScratchDir, removeScratchDir } from "@multifd/test/peers";
import type { Job, Method } from "./endpoint.js";
import type { Usage } from "./process-meter.js";
import type { Variant } from "./variants.js";

/** One migration. */
export type Measurement = {
  readonly wallMs: number;
  readonly wireBytes: number;
  readonly source: Usage;
  readonly destination: Usage;
};

/** Measurements by variant, one per counted round: the same index is the same round. */
export type Measured = ReadonlyMap<Variant, readonly Measurement[]>;

export type MeasureSetup = Omit<Job, "dir" | "method">;

/** Warms up, verifies, and measures `rounds` rounds of one method. @param say  Told what happens, a line at a time. */
export async function measureMethod(
  variants: readonly Variant[],
  method: Method,
  setup: MeasureSetup,
  rounds: number,
  say: (line: string) => void,
): Promise<Measured> {
  for (const variant of variants) {
    const { wallMs } = await migrateOnce(variant, method, setup, () =>
      assertSameBytes(setup.imagePath, setup.receivedPath),
    );
    say(`${method}, ${variant.name}: bytes equal, warm-up ${(wallMs / 1000).toFixed(2)} s`);
  }
  const measured = new Map<Variant, Measurement[]>(variants.map((variant) => [variant, []]));
  for (let round = 0; round < rounds; round++) {
    for (let turn = 0; turn < variants.length; turn++) {
      const variant = variants[(round + turn) % variants.length]!;
      const measurement = await migrateOnce(variant, method, setup, () => {});
      measured.get(variant)!.push(measurement);
      say(
        `${method}, ${variant.name}: round ${round + 1} of ${rounds}, ${(measurement.wallMs / 1000).toFixed(2)} s, ` +
          `CPU ${measurement.source.cpuSeconds.toFixed(2)} + ${measurement.destination.cpuSeconds.toFixed(2)} s`,
      );
    }
  }
  return measured;
}

/** @param look  Called when everything is in, before the received file is removed. */
async function migrateOnce(
  variant: Variant,
  method: Method,
  setup: MeasureSetup,
  look: () => void,
): Promise<Measurement> {
  const job: Job = { ...setup, method, dir: createScratchDir("disk") };
  try {
    const destination = await variant.destination(job);
    try {
      const [{ wallMs, wireBytes, ...source }, usage] = await Promise.all([
        variant.source(job, destination.address),
        destination.completed(),
      ]);
      look();
      return { wallMs, wireBytes, source, destination: usage };
    } finally {
      await destination.stop();
    }
  } catch (cause) {
    throw new Error(`${method}, ${variant.name}: ${(cause as Error).message}`, { cause });
  } finally {
    rmSync(job.receivedPath, { force: true });
    removeScratchDir(job.dir);
  }
}
