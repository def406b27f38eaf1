/**
 * Rounds: every variant in turn, so that a noisy minute of the machine hits all alike.
 *
 * A first round warms up and is not counted: it is the one that is verified, byte by
 * byte. Each counted round begins with another variant, so that none always follows the same one. Every migration gets a fresh destination file.
 */
import type { Place } from "./destinations.js";
import { type Case, describeCase } from "./plan.js";
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

export type Setting = {
  readonly case: Case;
  readonly imagePath: string;
  readonly place: Place;
};

/** Warms up, verifies, and measures `rounds` rounds of one case. @param say  Told what happens, a line at a time. */
export async function measureCase(
  variants: readonly Variant[],
  setting: Setting,
  rounds: number,
  say: (line: string) => void,
): Promise<Measured> {
  const name = describeCase(setting.case);
  for (const variant of variants) {
    const { wallMs } = await migrateOnce(variant, setting, "verified");
    say(`${name}; ${variant.name}: bytes equal, warm-up ${(wallMs / 1000).toFixed(2)} s`);
  }
  const measured = new Map<Variant, Measurement[]>(variants.map((variant) => [variant, []]));
  for (let round = 0; round < rounds; round++) {
    for (let turn = 0; turn < variants.length; turn++) {
      const variant = variants[(round + turn) % variants.length]!;
      const measurement = await migrateOnce(variant, setting, "unseen");
      measured.get(variant)!.push(measurement);
      say(
        `${name}; ${variant.name}: round ${round + 1} of ${rounds}, ${(measurement.wallMs / 1000).toFixed(2)} s, ` +
          `CPU ${measurement.source.cpuSeconds.toFixed(2)} + ${measurement.destination.cpuSeconds.toFixed(2)} s`,
      );
    }
  }
  return measured;
}

async function migrateOnce(
  variant: Variant,
  { case: { codec, channels, transport, ramBytes }, imagePath, place }: Setting,
  look: "verified" | "unseen",
): Promise<Measurement> {
  try {
    const destination = await place.start({ kind: variant.destination, codec, channels, transport, ramBytes });
    try {
      const [{ wallMs, wireBytes, ...source }, usage] = await Promise.all([
        variant.source({ codec, channels, imagePath, ramBytes, ready: () => destination.warm() }, destination.address),
        destination.completed(),
      ]);
      if (look === "verified") await destination.verify(imagePath);
      return { wallMs, wireBytes, source, destination: usage };
    } finally {
      await destination.stop();
    }
  } catch (cause) {
    throw new Error(`${codec.method}, ${variant.name}: ${(cause as Error).message}`, { cause });
  }
}
