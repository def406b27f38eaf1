/**
 * Summary: one variant's rounds as the figures that are read, and its ratios to what it is compared with.
 *
 * A ratio of speeds is above 1 where the variant is faster; ratios of CPU and wire
 * bytes are below 1 where it needs less.
 */
import type { Method } from "./endpoint.js";
import type { Measured, Measurement } from "./rounds.js";
import { median, medianRatio, type Spread, spread } from "./statistics.js";
import { CEILING, QEMU_ALONE } from "./variants.js";

export type Ratios = {
  readonly speed: number;
  readonly cpu: number;
  readonly wire: number;
};

export type Summary = {
  readonly variant: string;
  readonly wallMs: Spread;
  /** 10^6 bytes of guest RAM a second, by the median. */
  readonly megabytesPerSecond: number;
  readonly wireBytes: number;
  readonly sourceCpuSeconds: number;
  readonly destinationCpuSeconds: number;
  /** Highest of all rounds. */
  readonly sourcePeakAnonBytes: number;
  readonly destinationPeakAnonBytes: number;
  /** Null for QEMU itself. */
  readonly toQemu: Ratios | null;
  /** Null where the method has no ceiling, and for the ceiling itself. */
  readonly speedToCeiling: number | null;
  readonly rounds: readonly Measurement[];
};

export type MethodSummary = { readonly method: Method; readonly variants: readonly Summary[] };

export function summarize(method: Method, ramBytes: number, measured: Measured): MethodSummary {
  const byName = new Map([...measured].map(([variant, rounds]) => [variant.name, rounds]));
  const summaries = [...byName].map(([variant, rounds]): Summary => {
    const wallMs = spread(rounds.map(wall));
    const qemu = variant === QEMU_ALONE ? undefined : byName.get(QEMU_ALONE);
    const ceiling = variant === CEILING ? undefined : byName.get(CEILING);
    return {
      variant,
      wallMs,
      megabytesPerSecond: ramBytes / 1000 / wallMs.median,
      wireBytes: median(rounds.map(wire)),
      sourceCpuSeconds: median(rounds.map(({ source }) => source.cpuSeconds)),
      destinationCpuSeconds: median(rounds.map(({ destination }) => destination.cpuSeconds)),
      sourcePeakAnonBytes: Math.max(...rounds.map(({ source }) => source.peakAnonBytes)),
      destinationPeakAnonBytes: Math.max(...rounds.map(({ destination }) => destination.peakAnonBytes)),
      toQemu: qemu ? ratios(rounds, qemu) : null,
      speedToCeiling: ceiling ? medianRatio(ceiling.map(wall), rounds.map(wall)) : null,
      rounds,
    };
  });
  return { method, variants: summaries };
}

const wall = ({ wallMs }: Measurement) => wallMs;
const wire = ({ wireBytes }: Measurement) => wireBytes;
const cpu = ({ source, destination }: Measurement) => source.cpuSeconds + destination.cpuSeconds;

function ratios(rounds: readonly Measurement[], qemu: readonly Measurement[]): Ratios {
  return {
    speed: medianRatio(qemu.map(wall), rounds.map(wall)),
    cpu: medianRatio(rounds.map(cpu), qemu.map(cpu)),
    wire: medianRatio(rounds.map(wire), qemu.map(wire)),
  };
}
