/**
 * Contract: what multifd has promised to be, beside what it was.
 */
import type { Case } from "./plan.js";
import type { Summary } from "./summary.js";

export type Verdict = {
  readonly promise: string;
  readonly came: number;
  readonly due: number;
  readonly met: boolean;
};

const MIB = 2 ** 20;
const MEMORY_MIB = 96;
const MEMORY_PER_CHANNEL_MIB = 8;

/** Per codec: how many times QEMU's speed at least, and its wire bytes at most where there is a choice. */
const ratiosDue: Readonly<Record<string, { readonly speed: number; readonly wire: number | null }>> = {
  none: { speed: 1.5, wire: null },
  zlib: { speed: 5, wire: 1.03 },
  zstd: { speed: 1.4, wire: 1 },
};
const CEILING_DUE = 0.95;
const CPU_DUE = 0.7;
/** What the promises of speed are about. */
const IMAGE = "mixed";
const CHANNELS = 2;

/** What a codec that chooses must not be slower than, times the best that is fixed. */
const CHOOSING = "auto";
const CHOICE_DUE = 0.95;

/**
 * Judges a codec that chooses for itself beside the fixed ones of the same settings.
 *
 * @param fixed  multifd → multifd's medians with each fixed codec, in ms; nothing is judged without any.
 */
export function judgeChoice(
  { codec }: Case,
  summaries: readonly Summary[],
  fixed: readonly number[],
): readonly Verdict[] {
  const ours = summaries.find(({ role }) => role === "ours");
  if (codec.method !== CHOOSING || !ours || fixed.length === 0) return [];
  return [atLeast("speed, times the best fixed method's", Math.min(...fixed) / ours.wallMs.median, CHOICE_DUE)];
}

/** Judges multifd → multifd; empty where that was not measured. Memory is judged in every case, speed in the contract's. */
export function judge({ codec, channels, image }: Case, summaries: readonly Summary[]): readonly Verdict[] {
  const ours = summaries.find(({ role }) => role === "ours");
  if (!ours) return [];
  const isContracts = image === IMAGE && channels === CHANNELS;
  return [...(isContracts ? judgeRatios(codec.method, ours) : []), ...judgeMemory(ours, channels)];
}

function judgeRatios(method: string, { toQemu, speedToCeiling }: Summary): readonly Verdict[] {
  const verdicts: Verdict[] = [];
  const due = ratiosDue[method];
  if (toQemu && due) {
    verdicts.push(atLeast("speed, times QEMU's", toQemu.speed, due.speed));
    if (due.wire !== null) verdicts.push(atMost("wire bytes, times QEMU's", toQemu.wire, due.wire));
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
