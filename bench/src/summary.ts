/**
 * Summary: one variant's rounds as the figures that are read, and its ratios to what it is compared with.
 *
 * A ratio of speeds is above 1 where the variant is faster; ratios of CPU and wire
 * bytes are below 1 where it needs less.
 */
import type { Measured, Measurement } from "./rounds.js";
import { median, medianRatio, type Spread, spread } from "./statistics.js";
import type { Role } from "./variants.js";

export type Ratios = {
  readonly speed: number;
  readonly cpu: number;
  readonly wire: number;
};

export type Summary = {
  readonly variant: string;
  readonly role: Role;
  readonly wallMs: Spread;
  /** 10^6 bytes of guest RAM a second; the least is the slowest round's. */
  readonly megabytesPerSecond: Spread;
  readonly wireBytes: number;
  readonly sourceCpuSeconds: number;
  readonly destinationCpuSeconds: number;
  /** Highest of all rounds. */
  readonly sourcePeakAnonBytes: number;
  readonly destinationPeakAnonBytes: number;
  /** Null for QEMU itself. */
  readonly toQemu: Ratios | null;
  /** Null where the codec has no ceiling, and for the ceiling itself. */
  readonly speedToCeiling: number | null;
  readonly rounds: readonly Measurement[];
};

export function summarize(ramBytes: number, measured: Measured): readonly Summary[] {
  const ofRole = (role: Role) => [...measured].find(([variant]) => variant.role === role)?.[1];
  const [qemu, ceiling] = [ofRole("qemu"), ofRole("ceiling")];
  return [...measured].map(
    ([{ name, role }, rounds]): Summary => ({
      variant: name,
      role,
      wallMs: spread(rounds.map(wall)),
      megabytesPerSecond: spread(rounds.map(({ wallMs }) => ramBytes / 1000 / wallMs)),
      wireBytes: median(rounds.map(wire)),
      sourceCpuSeconds: median(rounds.map(({ source }) => source.cpuSeconds)),
      destinationCpuSeconds: median(rounds.map(({ destination }) => destination.cpuSeconds)),
      sourcePeakAnonBytes: Math.max(...rounds.map(({ source }) => source.peakAnonBytes)),
      destinationPeakAnonBytes: Math.max(...rounds.map(({ destination }) => destination.peakAnonBytes)),
      toQemu: qemu && role !== "qemu" ? ratios(rounds, qemu) : null,
      speedToCeiling: ceiling && role !== "ceiling" ? medianRatio(ceiling.map(wall), rounds.map(wall)) : null,
      rounds,
    }),
  );
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
