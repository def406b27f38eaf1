/**
 * Tracking cost: what write tracking costs the guest, in CPU time for each page that it gets done.
 *
 * A boot sector under TCG counts in every page of its working set, so a harvest makes every page of it fault
 * once more: the dearest that tracking can be. Variants take turns in one VM. What is told:
 *
 *   ns/page   CPU time of all of QEMU for a page that the guest counts, median over the turns
 *   ratio     to the untracked guest of the same turn, median over the turns
 *   harvest   one harvest of the whole block, median
 *
 * CPU time and not pages a second, for other work on the machine does not bend it.
 *
 *   node bench/dist/tracking-cost.js [--qemu 7.2] [--ram-mib 512] [--working-set-mib 256] [--runs 3]
 */
import { closeSync, openSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as after } from "node:timers/promises";
import { parseArgs } from "node:util";
import { attachTracking } from "@multifd/engine";
import { DirtyBitmap, describeRamBlock } from "@multifd/memory";
import {
  bootGuestSector,
  createScratchDir,
  QemuProcess,
  type QemuVersion,
  readBootGuest,
  removeScratchDir,
  waitForSweep,
} from "@multifd/test/peers";

const MIB = 2 ** 20;
const PAGE_BYTES = 4096;
const TURN_MS = 3000;
/** Milliseconds from one harvest to the next; null for none at all. */
const VARIANTS = [
  { name: "untracked", harvestEveryMs: null, attached: false },
  { name: "attached, not harvested", harvestEveryMs: null, attached: true },
  { name: "harvested every second", harvestEveryMs: 1000, attached: true },
  { name: "harvested every 100 ms", harvestEveryMs: 100, attached: true },
] as const;

const { values } = parseArgs({
  options: {
    qemu: { type: "string", default: "7.2" },
    "ram-mib": { type: "string", default: "512" },
    "working-set-mib": { type: "string", default: "256" },
    runs: { type: "string", default: "3" },
  },
});
const ramBytes = Number(values["ram-mib"]) * MIB;
const guest = {
  firstByte: MIB,
  strideBytes: PAGE_BYTES,
  pageCount: (Number(values["working-set-mib"]) * MIB) / PAGE_BYTES,
  pagesPerTick: 0,
};

function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[values.length >> 1] ?? Number.NaN;
}

type Turn = { readonly nsPerPage: number; readonly harvestMs: readonly number[] };

/** User and system time of a process in nanoseconds, in ticks of 10 ms. Source: proc(5), /proc/PID/stat. */
function cpuNs(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, "latin1").split(") ")[1]!.split(" ");
  return (Number(fields[11]) + Number(fields[12])) * 1e7;
}

async function measure(vm: QemuProcess, path: string, variant: (typeof VARIANTS)[number]): Promise<Turn> {
  const block = describeRamBlock("pc.ram", ramBytes, PAGE_BYTES)!;
  const descriptor = openSync(path, "r");
  const tracking = variant.attached
    ? await attachTracking({ pid: vm.pid, ram: [{ block, descriptor, offsetBytes: 0 }] })
    : null;
  try {
    const harvestMs: number[] = [];
    if (variant.harvestEveryMs !== null) await tracking!.tracker.start([block]);
    const done = () => {
      const { sweep, page } = readBootGuest(path)!;
      return sweep * guest.pageCount + page;
    };
    const [before, cpuBefore, startedMs] = [done(), cpuNs(vm.pid), performance.now()];
    while (performance.now() - startedMs < TURN_MS) {
      await after(variant.harvestEveryMs ?? TURN_MS);
      if (variant.harvestEveryMs === null) continue;
      const harvestedMs = performance.now();
      tracking!.tracker.harvest(0, new DirtyBitmap(block.pageCount));
      harvestMs.push(performance.now() - harvestedMs);
    }
    return { nsPerPage: (cpuNs(vm.pid) - cpuBefore) / (done() - before), harvestMs };
  } finally {
    await tracking?.detach();
    closeSync(descriptor);
  }
}

const dir = createScratchDir();
const path = join(dir, "ram");
const vm = await QemuProcess.start({
  version: values.qemu as QemuVersion,
  memory: [{ id: "pc.ram", path, bytes: ramBytes }],
  bootSector: bootGuestSector(guest),
});
try {
  await waitForSweep(path, 1, 120_000);
  const turns: Turn[][] = [];
  for (let run = 0; run < Number(values.runs); run++) {
    const turn: Turn[] = [];
    for (const variant of VARIANTS) turn.push(await measure(vm, path, variant));
    turns.push(turn);
  }
  for (const [index, { name }] of VARIANTS.entries()) {
    const nsPerPage = median(turns.map((turn) => turn[index]!.nsPerPage));
    const ratio = median(turns.map((turn) => turn[index]!.nsPerPage / turn[0]!.nsPerPage));
    const harvest = median(turns.flatMap((turn) => turn[index]!.harvestMs));
    const told = Number.isNaN(harvest) ? "" : `, harvest ${harvest.toFixed(1)} ms`;
    console.log(`${name.padEnd(24)} ${Math.round(nsPerPage)} ns/page, ratio ${ratio.toFixed(2)}${told}`);
  }
} finally {
  await vm.stop();
  removeScratchDir(dir);
}
