/**
 * Runs a bench: its parts in turn, into one report that is whole after each step.
 */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { createScratchDir, removeScratchDir } from "@multifd/test/peers";
import { codecs } from "./codecs.js";
import { measureCoordinator, SIMULATED_SIZES } from "./coordinator/measure-coordinator.js";
import { localPlace, type Place } from "./destinations.js";
import { images } from "./images.js";
import { installedQemu } from "./installed-qemu.js";
import type { LiveTerms } from "./live/live-report.js";
import { liveVariants, measureLive } from "./live/measure-live.js";
import { describeMachine, type Machine } from "./machine.js";
import { measureSpeed } from "./measure-speed.js";
import type { MeasureOptions } from "./options.js";
import { formatCoordinator, formatLive } from "./part-tables.js";
import { planCases } from "./plan.js";
import { connectPlace } from "./remote/remote-place.js";
import { renderPage } from "./report/page.js";
import type { CaseReport, Report } from "./report.js";
import { isWanted } from "./variants.js";

export type BenchOutput = {
  /** A line about what is going on. */
  readonly say: (line: string) => void;
  /** Results, as text. */
  readonly show: (text: string) => void;
};

/** A live migration that takes longer does not converge. */
const LIVE_LIMIT_MS = 15_000;
const LIVE_CHANNELS = 2;
/** Three quarters of RAM are written over and over. */
const LIVE_WORKING_PART = 0.75;

const GIB = 2 ** 30;

/** @returns the report, which is also in `options.outDir`. */
export async function runBench(options: MeasureOptions, { say, show }: BenchOutput): Promise<Report> {
  const machine = describeMachine();
  const version = installedQemu(options.qemu);
  if (version === null)
    say(`QEMU ${options.qemu} is not installed here: measured without it; sh test/peers/setup.sh installs it`);
  const dir = createScratchDir("ram");
  const { place, hasQemu, machineThere, close } = await openPlace(options, dir, version !== null);
  let report: Report = {
    format: 2,
    startedAt: new Date().toISOString(),
    machine,
    destinationMachine: machineThere,
    qemu: version,
    rounds: options.rounds,
    cases: [],
    live: null,
    coordinator: null,
  };
  const keep = (more: Partial<Report>) => {
    report = { ...report, ...more };
    writeReport(report, options.outDir);
  };
  try {
    show(
      `${machine.cores} × ${machine.cpu}, Linux ${machine.kernel}, Node ${machine.node}, load ${machine.load.toFixed(2)}; ${version ?? "no QEMU"}\n`,
    );
    if (options.parts.includes("speed")) {
      const cases = planCases(options.lists, options.full, {
        codecs,
        images: images.map(({ name }) => name),
      });
      say(`${cases.length} cases of ${options.rounds} rounds each`);
      const terms = { place, qemu: options.qemu, hasQemu, only: options.only, rounds: options.rounds, dir };
      await measureSpeed(cases, terms, say, (done: CaseReport, table) => {
        keep({ cases: [...report.cases, done] });
        show(table);
      });
    }
    const livePart = options.parts.includes("live") ? liveVariants(version === null ? null : options.qemu) : [];
    const live = livePart.filter(({ name }) => isWanted(name, options.only));
    if (live.length > 0) {
      const measured = await measureLive(live, liveTerms(options), options.liveRates, options.rounds, say);
      keep({ live: measured });
      show(formatLive(measured));
    } else if (options.parts.includes("live")) {
      say("live guests: left out, for none of the variants asked for can be measured here");
    }
    if (options.parts.includes("coordinator")) {
      const sizes = options.full ? [GIB, 4 * GIB, 8 * GIB] : [GIB / 4, GIB / 2, GIB];
      const coordinator = await measureCoordinator(SIMULATED_SIZES, sizes, options.rounds, say);
      keep({ coordinator });
      show(formatCoordinator(coordinator));
    }
    say(`the report is in ${join(options.outDir, "report.html")} and report.json beside it`);
    return report;
  } finally {
    close();
    removeScratchDir(dir);
  }
}

type OpenPlace = {
  readonly place: Place;
  readonly hasQemu: { readonly here: boolean; readonly there: boolean };
  readonly machineThere: Machine | null;
  readonly close: () => void;
};

async function openPlace({ to, qemu }: MeasureOptions, dir: string, here: boolean): Promise<OpenPlace> {
  if (to === null) {
    const place = localPlace(qemu, join(dir, "received"));
    return { place, hasQemu: { here, there: here }, machineThere: null, close: () => {} };
  }
  const remote = await connectPlace(to, qemu);
  return {
    place: remote,
    hasQemu: { here, there: remote.hasQemu },
    machineThere: remote.machine,
    close: () => remote.close(),
  };
}

function liveTerms({ liveRamBytes, downtimeLimitMs, liveBandwidth }: MeasureOptions): LiveTerms {
  return {
    ramBytes: liveRamBytes,
    workingSetBytes: liveRamBytes * LIVE_WORKING_PART,
    channels: LIVE_CHANNELS,
    downtimeLimitMs,
    maxBandwidth: liveBandwidth,
    limitMs: LIVE_LIMIT_MS,
  };
}

function writeReport(report: Report, dir: string): void {
  mkdirSync(dir, { recursive: true });
  writeFileSync(join(dir, "report.json"), `${JSON.stringify(report, null, 1)}\n`);
  writeFileSync(join(dir, "report.html"), renderPage(report));
}
