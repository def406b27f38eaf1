/**
 * Measures live migrations, from a leisurely guest to one that outruns the link.
 *
 * Rates double. At each of them all variants take turns; a variant leaves when it
 * does not converge, or when its guest writes hardly faster than before.
 */
import type { QemuVersion } from "@multifd/test/peers";
import { median, spread } from "../statistics.js";
import type { Role } from "../variants.js";
import type { LiveOutcome, LiveProgram } from "./live-migration.js";
import type { LivePoint, LiveReport, LiveTerms } from "./live-report.js";
import { moveGuest, multifdLive } from "./multifd-live.js";
import { qemuLive } from "./qemu-live.js";
import { timelineOf } from "./timeline.js";

export type LiveVariant = { readonly name: string; readonly role: Role; readonly run: LiveProgram };

const LOWEST_RATE = 100e6;
const RATES_MAX = 8;
/** A guest that gets less than this part of what is asked for, and hardly more than before, writes as fast as it can. */
const REACHED_MIN = 0.6;
const GAIN_MIN = 1.2;
/** The timeline's guest and link: some rounds, each long enough to be seen. */
const TIMELINE_RATE = 100e6;
const TIMELINE_BANDWIDTH = 250e6;

/** @param qemu  Null where none is installed. */
export function liveVariants(qemu: QemuVersion | null): readonly LiveVariant[] {
  const ours: LiveVariant = { name: "multifd → multifd", role: "ours", run: multifdLive };
  if (qemu === null) return [ours];
  const name = `QEMU ${qemu}`;
  return [
    { name: `${name} → ${name}`, role: "qemu", run: qemuLive(qemu, "into QEMU") },
    { name: `${name} → multifd`, role: "other", run: qemuLive(qemu, "into files") },
    { name: `multifd moves ${name}`, role: "other", run: qemuLive(qemu, "by multifd") },
    ours,
  ];
}

/** @param rates  Bytes a second, ascending; doubling from 100 MB/s where null. */
export async function measureLive(
  variants: readonly LiveVariant[],
  terms: LiveTerms,
  rates: readonly number[] | null,
  runs: number,
  say: (line: string) => void,
): Promise<LiveReport> {
  const points: LivePoint[] = [];
  let left = variants;
  const ladder = rates ?? Array.from({ length: RATES_MAX }, (_, step) => LOWEST_RATE * 2 ** step);
  for (const askedRate of ladder) {
    if (left.length === 0) break;
    const outcomes = new Map<LiveVariant, LiveOutcome[]>(left.map((variant) => [variant, []]));
    for (let run = 0; run < runs; run++) {
      for (let turn = 0; turn < left.length; turn++) {
        const variant = left[(run + turn) % left.length]!;
        const had = outcomes.get(variant)!;
        if (had.some(({ figures }) => figures === null)) continue;
        const outcome = await variant.run({ ...terms, rate: askedRate });
        had.push(outcome);
        say(`live, ${variant.name} at ${(askedRate / 1e6).toFixed(0)} MB/s: ${describe(outcome)}`);
      }
    }
    const measured = [...outcomes].map(([variant, had]) => pointOf(variant, askedRate, had));
    left = left.filter((_, index) => goesOn(measured[index]!, points));
    points.push(...measured);
  }
  const timelineTerms = { askedRate: TIMELINE_RATE, maxBandwidth: TIMELINE_BANDWIDTH };
  const { events } = await moveGuest({ ...terms, rate: TIMELINE_RATE, maxBandwidth: TIMELINE_BANDWIDTH });
  const byVariant = variants.flatMap(({ name }) => points.filter(({ variant }) => variant === name));
  return { ...terms, runs, points: byVariant, timeline: timelineOf(events, timelineTerms) };
}

function pointOf({ name, role }: LiveVariant, askedRate: number, outcomes: readonly LiveOutcome[]): LivePoint {
  const figures = outcomes.flatMap((outcome) => outcome.figures ?? []);
  const converged = figures.length === outcomes.length;
  return {
    variant: name,
    role,
    askedRate,
    reachedRate: median(outcomes.map(({ reachedRate }) => reachedRate)),
    downtimeMs: converged ? spread(figures.map(({ downtimeMs }) => downtimeMs)) : null,
    totalMs: converged ? spread(figures.map(({ totalMs }) => totalMs)) : null,
    rounds: converged ? median(figures.map(({ rounds }) => rounds)) : null,
  };
}

/** @param points  What has been measured before. */
function goesOn({ variant, downtimeMs, askedRate, reachedRate }: LivePoint, points: readonly LivePoint[]): boolean {
  const before = points.findLast((point) => point.variant === variant);
  if (downtimeMs === null) return false;
  if (before === undefined || reachedRate >= REACHED_MIN * askedRate) return true;
  return reachedRate >= GAIN_MIN * before.reachedRate;
}

function describe({ figures, reachedRate }: LiveOutcome): string {
  const wrote = `the guest wrote ${(reachedRate / 1e6).toFixed(0)} MB/s`;
  if (figures === null) return `does not converge; ${wrote}`;
  const { totalMs, downtimeMs, rounds } = figures;
  return `${(totalMs / 1000).toFixed(2)} s, ${rounds} rounds, downtime ${downtimeMs.toFixed(0)} ms; ${wrote}`;
}
