/**
 * QEMU live: one guest of an unmodified QEMU, moved by its own multifd migration and by `multifd qemu migrate`, in turns.
 *
 * The guest (a boot sector under TCG) counts in every page of its working set at a settable pace. Both ways
 * have the same channels, codec and downtime limit, unix sockets, and no bandwidth limit. What is told:
 *
 *   total      from the command until the source knows that the guest runs elsewhere: QEMU's total-time, our totalMs
 *   downtime   from the stop until then: QEMU's downtime, our downtimeMs
 *   standstill the longest time in which no page was counted in either RAM file, looked at every millisecond
 *   CPU        all threads of all processes but the processors' (vCPU), source + destination; the start of our source's command included
 *   slowdown   what the guest got done a second while it was migrated, against the two seconds before
 *
 *   node bench/dist/qemu-live.js [--qemu 11.1] [--ram-bytes 1G] [--working-set 256M] [--rates 0,100M,1G]
 *        [--channels 2] [--compression none] [--runs 3]
 */
import { closeSync, openSync, readFileSync, readSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as after } from "node:timers/promises";
import { parseArgs } from "node:util";
import {
  BOOT_GUEST_STATE_AT,
  BOOT_GUEST_STATE_BYTES,
  type BootGuest,
  bootGuestSector,
  checkBootGuest,
  createScratchDir,
  decodeBootGuest,
  paceBootGuest,
  QemuProcess,
  type QemuVersion,
  readBootGuest,
  removeScratchDir,
  waitForSweep,
} from "@multifd/test/peers";
import { EventProcess } from "./event-process.js";
import { describeMachine } from "./machine.js";
import { heldCommand } from "./multifd-endpoint.js";
import { median } from "./statistics.js";
import { type Column, formatTable } from "./table.js";

const PAGE_BYTES = 4096;
const TICKS_PER_SECOND = 1000;
const CLOCK_TICKS = 100;
const BEFORE_MS = 2000;
const TIMEOUT_MS = 60_000;
const LOOK_MS = 1;
const UNPACED = 2 ** 14;
const DOWNTIME_LIMIT_MS = 300;
const UNITS: Readonly<Record<string, number>> = { K: 2 ** 10, M: 2 ** 20, G: 2 ** 30 };

const { values } = parseArgs({
  options: {
    qemu: { type: "string", default: "11.1" },
    "ram-bytes": { type: "string", default: "1G" },
    "working-set": { type: "string", default: "256M" },
    rates: { type: "string", default: "0,100M,1G" },
    channels: { type: "string", default: "2" },
    compression: { type: "string", default: "none" },
    runs: { type: "string", default: "3" },
  },
});
const bytesOf = (text: string) => Number.parseFloat(text) * (UNITS[text.slice(-1)] ?? 1);
const version = values.qemu as QemuVersion;
const ramBytes = bytesOf(values["ram-bytes"]);
const channels = Number(values.channels);
const compression = values.compression as "none" | "zlib" | "zstd";
const guest: BootGuest = {
  firstByte: 2 ** 20,
  strideBytes: PAGE_BYTES,
  pageCount: bytesOf(values["working-set"]) / PAGE_BYTES,
  pagesPerTick: UNPACED,
};

type Figures = {
  readonly totalMs: number;
  readonly downtimeMs: number;
  readonly standstillMs: number;
  readonly cpuSeconds: number;
  /** Bytes a second. */
  readonly rateBefore: number;
  readonly rateDuring: number;
};
type Pair = { readonly source: QemuProcess; readonly destination: QemuProcess; readonly dir: string };
/** Moves the guest. @returns what the source said; null where it did not end. */
type Way = {
  readonly name: string;
  readonly prepare: (pair: Pair) => Promise<readonly EventProcess[]>;
  readonly move: (
    pair: Pair,
  ) => Promise<{ totalMs: number; downtimeMs: number; helpers: readonly EventProcess[] } | null>;
};

const setup = { channels, compression, downtimeLimitMs: DOWNTIME_LIMIT_MS };

const qemuWay: Way = {
  name: `QEMU ${version}`,
  prepare: async ({ source, destination, dir }) => {
    await source.setMigration(setup);
    await destination.setMigration(setup);
    await destination.listen(`unix:${dir}/migration`);
    return [];
  },
  move: async ({ source, dir }) => {
    await source.migrateTo(`unix:${dir}/migration`);
    const outcome = await source.waitMigration(TIMEOUT_MS).catch((error: unknown) => console.error(String(error)));
    if (!outcome) return null;
    if (outcome.status !== "completed") throw new Error(`QEMU: ${outcome.error}`);
    const { "total-time": totalMs, downtime } = outcome.info as { "total-time": number; downtime: number };
    return { totalMs, downtimeMs: downtime, helpers: [] };
  },
};

const ourFlags = ["--json", "--channels", `${channels}`, "--compression", compression];
const ourWay: Way = {
  name: "multifd qemu migrate",
  prepare: async ({ dir }) => {
    const words = ["qemu", "incoming", ...ourFlags, "--qmp", `${dir}/qmp.destination`, "--listen", `unix:${dir}/link`];
    const incoming = new EventProcess("multifd qemu incoming", process.execPath, heldCommand(...words));
    await incoming.expect("listening", TIMEOUT_MS);
    return [incoming];
  },
  move: async ({ dir }) => {
    const limits = ["--downtime-limit", `${DOWNTIME_LIMIT_MS}`, "--rounds-max", "1000000"];
    const words = ["qemu", "migrate", ...ourFlags, ...limits, "--qmp", `${dir}/qmp.source`, "--to", `unix:${dir}/link`];
    const migrate = new EventProcess("multifd qemu migrate", process.execPath, heldCommand(...words));
    try {
      const { totalMs, downtimeMs } = await migrate.expect("completed", TIMEOUT_MS);
      return { totalMs: Number(totalMs), downtimeMs: Number(downtimeMs), helpers: [migrate] };
    } catch (error) {
      await migrate.stop();
      console.error(String(error));
      return null;
    }
  },
};

async function measure(way: Way, rate: number): Promise<Figures | null> {
  const dir = createScratchDir("ram");
  const ends: { stop(): Promise<unknown> }[] = [];
  const start = async (name: "source" | "destination") => {
    const vm = await QemuProcess.start({
      version,
      bootSector: bootGuestSector(guest),
      memory: [{ id: "pc.ram", path: join(dir, name), bytes: ramBytes }],
      extraArgs: ["-qmp", `unix:${dir}/qmp.${name},server=on,wait=off`],
      ...(name === "destination" && { incoming: "defer" }),
    });
    ends.push(vm);
    return vm;
  };
  try {
    const pair = { source: await start("source"), destination: await start("destination"), dir };
    const [from, to] = [join(dir, "source"), join(dir, "destination")];
    await waitForSweep(from, 1, TIMEOUT_MS);
    paceBootGuest(from, Math.max(1, Math.round(rate / PAGE_BYTES / TICKS_PER_SECOND)));
    const helpers = [...(await way.prepare(pair))];
    ends.push(...helpers);
    const first = look(from);
    await after(BEFORE_MS);
    const begun = look(from);
    const cpuBefore = await cpuBeside(pair, helpers);
    const watch = watchStandstill(from, to);
    ends.push({ stop: async () => void watch.stop() });
    const came = await way.move(pair);
    if (came === null) return null;
    ends.push(...came.helpers);
    await goesOn(from, to);
    const standstillMs = watch.stop();
    const cpuAfter = await cpuBeside(pair, [...helpers, ...came.helpers]);
    const ended = look(from); // it stands still here since the stop
    checkBootGuest(from, guest);
    return {
      totalMs: came.totalMs,
      downtimeMs: came.downtimeMs,
      standstillMs,
      cpuSeconds: cpuAfter - cpuBefore,
      rateBefore: rateBetween(first, begun, begun.atMs - first.atMs),
      rateDuring: rateBetween(begun, ended, watch.lastAtSourceMs() - begun.atMs),
    };
  } finally {
    for (const end of ends.reverse()) await end.stop();
    removeScratchDir(dir);
  }
}

/** A whole sweep of a slow guest takes too long to wait for: one page more is enough. */
async function goesOn(from: string, to: string): Promise<void> {
  for (const deadline = performance.now() + TIMEOUT_MS; look(to).pages <= look(from).pages; await after(LOOK_MS)) {
    if (performance.now() > deadline) throw new Error(`the guest does not go on in ${to}`);
  }
}

type Look = { readonly pages: number; readonly atMs: number };

function look(ram: string): Look {
  const { sweep, page } = readBootGuest(ram) ?? { sweep: 0, page: 0 };
  return { pages: sweep * guest.pageCount + page, atMs: performance.now() };
}

function rateBetween(before: Look, now: Look, elapsedMs: number): number {
  return ((now.pages - before.pages) * PAGE_BYTES * 1000) / Math.max(1, elapsedMs);
}

/** Watches both RAM files for the guest's progress, from now on. */
function watchStandstill(from: string, to: string) {
  const [source, destination] = [new ProgressEye(from), new ProgressEye(to)];
  let last = look(from);
  let lastAtSourceMs = last.atMs;
  let longestMs = 0;
  const timer = setInterval(() => {
    const [here, there] = [source.look(), destination.look()];
    if (here.pages > last.pages) lastAtSourceMs = here.atMs;
    const ahead = here.pages > there.pages ? here : there;
    if (ahead.pages <= last.pages) return;
    longestMs = Math.max(longestMs, ahead.atMs - last.atMs);
    last = ahead;
  }, LOOK_MS);
  let isOver = false;
  const stop = () => {
    clearInterval(timer);
    if (!isOver) for (const eye of [source, destination]) eye.close();
    isOver = true;
    return longestMs;
  };
  return { stop, lastAtSourceMs: () => lastAtSourceMs };
}

/** Looks at one guest's progress over and over, with one read each time. */
class ProgressEye {
  readonly #descriptor: number;
  readonly #state = Buffer.alloc(BOOT_GUEST_STATE_BYTES);

  constructor(ram: string) {
    this.#descriptor = openSync(ram, "r");
  }

  look(): Look {
    readSync(this.#descriptor, this.#state, 0, BOOT_GUEST_STATE_BYTES, BOOT_GUEST_STATE_AT);
    const { sweep, page } = decodeBootGuest(this.#state) ?? { sweep: 0, page: 0 };
    return { pages: sweep * guest.pageCount + page, atMs: performance.now() };
  }

  close(): void {
    closeSync(this.#descriptor);
  }
}

/** CPU seconds of both QEMUs without their processors, and of our commands. */
async function cpuBeside({ source, destination }: Pair, helpers: readonly EventProcess[]): Promise<number> {
  let seconds = 0;
  for (const vm of [source, destination]) {
    const cpus = (await vm.execute("query-cpus-fast")) as readonly { readonly "thread-id": number }[];
    seconds += cpuSeconds(`/proc/${vm.pid}/stat`);
    for (const cpu of cpus) seconds -= cpuSeconds(`/proc/${vm.pid}/task/${cpu["thread-id"]}/stat`);
  }
  return helpers.reduce((sum, { pid }) => sum + cpuSeconds(`/proc/${pid}/stat`), seconds);
}

/** Source: proc(5), utime (14) and stime (15); the name before them may hold spaces. */
function cpuSeconds(path: string): number {
  const line = readFileSync(path, "utf8");
  const fields = line.slice(line.lastIndexOf(")") + 2).split(" ");
  return (Number(fields[11]) + Number(fields[12])) / CLOCK_TICKS;
}

type Row = { readonly rate: number; readonly way: string; readonly figures: readonly (Figures | null)[] };

/** Those that ended; a dash where none did. */
const middle =
  (field: (figures: Figures) => number, digits: number) =>
  ({ figures }: Row) => {
    const ended = figures.flatMap((each) => (each === null ? [] : [field(each)]));
    return ended.length === 0 ? "-" : median(ended).toFixed(digits);
  };
const columns: readonly Column<Row>[] = [
  { title: "MB/s asked, way", cell: ({ rate, way }) => `${(rate / 1e6).toFixed(0).padStart(5)}  ${way}` },
  { title: "ended", cell: ({ figures }) => `${figures.filter((each) => each !== null).length}/${figures.length}` },
  { title: "total ms", cell: middle(({ totalMs }) => totalMs, 0) },
  { title: "downtime ms", cell: middle(({ downtimeMs }) => downtimeMs, 0) },
  { title: "standstill ms", cell: middle(({ standstillMs }) => standstillMs, 0) },
  { title: "CPU s", cell: middle(({ cpuSeconds: cpu }) => cpu, 2) },
  { title: "MB/s before", cell: middle(({ rateBefore }) => rateBefore / 1e6, 0) },
  { title: "MB/s during", cell: middle(({ rateDuring }) => rateDuring / 1e6, 0) },
  { title: "kept", cell: middle(({ rateBefore, rateDuring }) => rateDuring / rateBefore, 2) },
];

console.log(JSON.stringify(describeMachine()));
const rows: Row[] = [];
for (const rate of values.rates.split(",").map(bytesOf)) {
  const figures = [qemuWay, ourWay].map((way) => ({ way, came: [] as (Figures | null)[] }));
  for (let run = 0; run < Number(values.runs); run++) {
    for (const each of run % 2 === 0 ? figures : figures.toReversed()) each.came.push(await measure(each.way, rate));
  }
  rows.push(...figures.map(({ way, came }) => ({ rate, way: way.name, figures: came })));
}
console.log(formatTable(columns, rows));
