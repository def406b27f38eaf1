/**
 * Contract: what multifd has promised to be, beside what it was.
 */
import type { Method } from "./endpoint.js";
import type { MethodSummary, Summary } from "./summary.js";
import { OURS } from "./variants.js";

export type Verdict = {
  readonly promise: string;
  readonly came: number;
  readonly due: number;
  readonly met: boolean;
};

const MIB = 2 ** 20;
const MEMORY_MIB = 96;
const MEMORY_PER_CHANNEL_MIB = 8;

/** Per method: how many times QEMU's speed at least, and its wire bytes at most where there is a choice. */
const ratiosDue: Record<Method, { readonly speed: number; readonly wire: number | null }> = {
  none: { speed: 1.5, wire: null },
  zlib: { speed: 5, wire: 1.03 },
  zstd: { speed: 1.4, wire: 1 },
};
const CEILING_DUE = 0.95;
const CPU_DUE = 0.7;

/** Judges multifd → multifd; empty where that was not measured. */
export function judge({ method, variants }: MethodSummary, channels: number): readonly Verdict[] {
  const ours = variants.find(({ variant }) => variant === OURS);
  if (!ours) return [];
  return [...judgeRatios(method, ours), ...judgeMemory(ours, channels)];
}

function judgeRatios(method: Method, { toQemu, speedToCeiling }: Summary): readonly Verdict[] {
  const verdicts: Verdict[] = [];
  if (toQemu) {
    const { speed, wire } = ratiosDue[method];
    verdicts.push(atLeast("speed, times QEMU's", toQemu.speed, speed));
    if (wire !== null) verdicts.push(atMost("wire bytes, times QEMU's", toQemu.wire, wire));
    verdicts.push(atMost("CPU of both ends, times QEMU's", toQemu.cpu, CPU_DUE));
  }
  if (speedToCeiling !== null) verdicts.push(atLeast("speed, times the ceiling's", speedToCeiling, CEILING_DUE));
  return verdicts;
}

function judgeMemory(ours: Summary, channels: number): readonly Verdict[] {
  const due = MEMORY_MIB + MEMORY_PER_CHANNEL_MIB * channels;
  return [
    atMost("MiB beside RAM, source", ours.sourcePeakAnonBytes / MIB, due),
    atMost("MiB beside RAM, destination", ours.destinationPeakAnonBytes / MIB, due),
  ];
}

function atLeast(promise: string, came: number, due: number): Verdict {
  return { promise: `${promise}: at least ${due}`, came, due, met: came >= due };
}

function atMost(promise: string, came: number, due: number): Verdict {
  return { promise: `${promise}: at most ${due}`, came, due, met: came <= due };
}
