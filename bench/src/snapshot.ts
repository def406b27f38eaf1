/**
 * Snapshot: how long a guest takes into one file and out of it, in QEMU's way and in ours.
 *
 * One image serves all; all ways take turns, each on warm memory, and each round's files are made anew.
 * A save is what its source, a paused QEMU 11.1, says it took, until our word that the
 * file is whole and synced, or, where QEMU writes the file itself, until it has been
 * synced afterwards, or what our own snapshot of its RAM file says, synced too; a load runs from the first command until the destination,
 * a QEMU 11.1, says that it is complete. Files lie beside the image, in memory
 * unless `--dir` names a disk: what is measured is the programs.
 *
 *   node bench/dist/snapshot.js [--ram-bytes 4G] [--runs 3] [--channels 2] [--dir PATH]
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync, statSync } from "node:fs";
import { open } from "node:fs/promises";
import { join } from "node:path";
import { parseArgs } from "node:util";
import {
  assertSameBytes,
  createScratchDir,
  mixedImage,
  mixedShares,
  QemuProcess,
  removeScratchDir,
} from "@multifd/test/peers";
import { RAM_BLOCK } from "./endpoint.js";
import { runSource, startDestination } from "./event-endpoint.js";
import { describeMachine } from "./machine.js";
import { heldCommand } from "./multifd-endpoint.js";
import { median, medianRatio, spread } from "./statistics.js";
import { warmMemory } from "./warm-memory.js";

const TIMEOUT_MS = 600_000;
/** QEMU's own file; ours in its form and compressed, of QEMU's stream and of its RAM file; and QEMU's compressed afterwards. */
const FILES = [
  "qemu.mapped-ram",
  "ours.mapped-ram",
  "ours.compressed",
  "direct.mapped-ram",
  "direct.compressed",
  "qemu.zst",
] as const;

const { values } = parseArgs({
  options: {
    "ram-bytes": { type: "string", default: "4G" },
    runs: { type: "string", default: "3" },
    channels: { type: "string", default: "2" },
    dir: { type: "string" },
  },
});
const ramBytes = Number.parseInt(values["ram-bytes"], 10) * (values["ram-bytes"].endsWith("G") ? 2 ** 30 : 2 ** 20);
const channels = Number(values.channels);
const runs = Number(values.runs);
const storedRamBytes = Math.ceil(ramBytes * (1 - mixedShares.zero / 100));

const images = createScratchDir("ram");
const dir = values.dir === undefined ? images : mkdtempSync(join(values.dir, "multifd-"));
const image = join(images, "image");
const loaded = join(images, "loaded");
const path = (name: string) => join(dir, name);
const socket = `unix:${join(images, "sock")}`;

type Way = {
  readonly name: string;
  readonly run: () => Promise<number>;
  /** Written by it. */
  readonly file?: string;
  /** Not needed any more when it has run. */
  readonly done?: readonly string[];
};

const mappedRam = { "mapped-ram": true, "return-path": false };

async function withVm<T>(
  file: string,
  incoming: string | null,
  use: (vm: QemuProcess) => Promise<T>,
  extraArgs: readonly string[] = [],
): Promise<T> {
  const memory = [{ id: RAM_BLOCK, path: file, bytes: ramBytes }];
  const vm = await QemuProcess.start({
    version: "11.1",
    memory,
    paused: true,
    extraArgs,
    ...(incoming && { incoming }),
  });
  try {
    return await use(vm);
  } finally {
    await vm.stop();
  }
}

/** Waits without asking: while a QEMU loads a file it answers nobody. */
async function end(vm: QemuProcess): Promise<Readonly<Record<string, unknown>>> {
  const ended = ({ status }: Readonly<Record<string, unknown>>) => status === "completed" || status === "failed";
  await vm.qmp.waitForEvent("MIGRATION", ended, TIMEOUT_MS);
  const { status, error, info } = await vm.waitMigration(TIMEOUT_MS);
  if (status !== "completed") throw new Error(`QEMU: the migration ${status}: ${error}`);
  return info;
}

const saveByQemu = (file: string) =>
  withVm(image, null, async (vm) => {
    await vm.setMigration({ channels, capabilities: mappedRam });
    await vm.migrateTo(`file:${path(file)}`);
    const totalMs = Number((await end(vm))["total-time"]);
    return totalMs + (await syncMs(path(file)));
  });

/** What QEMU leaves undone: without it a file on a disk is not yet there. */
async function syncMs(file: string): Promise<number> {
  const startedMs = performance.now();
  const handle = await open(file, "r+");
  await handle.sync();
  await handle.close();
  return performance.now() - startedMs;
}

const saveByUs = (file: string, form: string) =>
  withVm(image, null, async (vm) => {
    const receiver = await startDestination("multifd receive", process.execPath, [
      ...heldCommand("receive", "--json", "--channels", `${channels}`),
      ...["--listen", socket, "--out", path(file), "--form", form],
    ]);
    try {
      await vm.setMigration({ channels });
      await vm.migrateTo(receiver.address);
      const [info] = await Promise.all([end(vm), receiver.completed()]);
      return Number(info["total-time"]);
    } finally {
      await receiver.stop();
    }
  });

/** By the running QEMU's RAM file, which we read ourselves. */
const saveFromRamFile = (file: string, form: string) => {
  const qmp = join(images, "qmp");
  const serve = (vm: QemuProcess) =>
    runSource("multifd qemu snapshot", process.execPath, [
      ...heldCommand("qemu", "snapshot", "--json", "--channels", `${channels}`),
      ...["--qmp", qmp, "--pid", `${vm.pid}`, "--out", path(file), "--form", form],
    ]);
  return withVm(image, null, async (vm) => (await serve(vm)).wallMs, ["-qmp", `unix:${qmp},server=on,wait=off`]);
};

async function compressAfterwards(from: string, to: string, level: number): Promise<number> {
  const startedMs = performance.now();
  const zstd = spawn("zstd", ["-q", "-f", `-${level}`, path(from), "-o", path(to)], { stdio: "inherit" });
  const [code] = (await once(zstd, "close")) as [number];
  if (code !== 0) throw new Error(`zstd ended with status ${code}`);
  return performance.now() - startedMs;
}

/** Loads, and compares what came with the image. */
function load(setup: Parameters<QemuProcess["setMigration"]>[0], go: (vm: QemuProcess) => Promise<void>) {
  return withVm(loaded, "defer", async (vm) => {
    await vm.setMigration(setup);
    const startedMs = performance.now();
    await go(vm);
    await end(vm);
    const elapsedMs = performance.now() - startedMs;
    assertSameBytes(image, loaded);
    return elapsedMs;
  }).finally(() => rmSync(loaded, { force: true }));
}

const loadByQemu = (file: string) =>
  load({ channels, capabilities: mappedRam }, (vm) => vm.listen(`file:${path(file)}`));

const loadByUs = (file: string, compression: "none" | "zstd") =>
  load({ channels, compression }, async (vm) => {
    await vm.listen(socket);
    await runSource("multifd send", process.execPath, [
      ...heldCommand("send", "--json", "--channels", `${channels}`, "--compression", compression),
      ...["--from", path(file), "--to", socket],
    ]);
  });

/** Of the `zstd` program, for whoever types no level. */
const ZSTD_DEFAULT_LEVEL = 3;
const [qemu, mapped, compressed, direct, directCompressed, zst] = FILES;
/** One file after the other, each gone before the next: what is measured is not to wait for memory. */
const ways: readonly Way[] = [
  { name: "save: QEMU, mapped-ram", run: () => saveByQemu(qemu), file: qemu },
  { name: "load: QEMU, its own file", run: () => loadByQemu(qemu) },
  { name: "afterwards: zstd -1 over QEMU's file", run: () => compressAfterwards(qemu, zst, 1), file: zst },
  {
    name: "afterwards: zstd over QEMU's file",
    run: () => compressAfterwards(qemu, zst, ZSTD_DEFAULT_LEVEL),
    file: zst,
    done: [qemu, zst],
  },
  { name: "save: multifd qemu snapshot, mapped-ram", run: () => saveFromRamFile(direct, "mapped-ram"), file: direct },
  { name: "load: QEMU, our mapped-ram", run: () => loadByQemu(direct) },
  { name: "load: multifd → QEMU, mapped-ram", run: () => loadByUs(direct, "none"), done: [direct] },
  {
    name: "save: multifd qemu snapshot, compressed",
    run: () => saveFromRamFile(directCompressed, "compressed"),
    file: directCompressed,
  },
  { name: "load: multifd → QEMU, compressed, none", run: () => loadByUs(directCompressed, "none") },
  {
    name: "load: multifd → QEMU, compressed, zstd",
    run: () => loadByUs(directCompressed, "zstd"),
    done: [directCompressed],
  },
  {
    name: "save: QEMU → multifd, mapped-ram",
    run: () => saveByUs(mapped, "mapped-ram"),
    file: mapped,
    done: [mapped],
  },
  {
    name: "save: QEMU → multifd, compressed",
    run: () => saveByUs(compressed, "compressed"),
    file: compressed,
    done: [compressed],
  },
];

/** Bytes on the medium, which for a sparse file are fewer than its length. */
const storedBytes = (file: string) => statSync(path(file)).blocks * 512;

const say = (line: string) => process.stderr.write(`${line}\n`);

try {
  mixedImage(image, ramBytes, 1);
  const { cores, cpu, kernel, load: busy } = describeMachine();
  process.stdout.write(
    `${ramBytes / 2 ** 20} MiB, ${channels} channels, ${runs} rounds after a warm-up; ${cores} × ${cpu}, Linux ${kernel}, load ${busy.toFixed(2)}\n`,
  );
  const measured = new Map<string, number[]>(ways.map(({ name }) => [name, []]));
  const sizes = new Map<string, number>();
  for (let round = 0; round <= runs; round++) {
    for (const { name, run, file, done = [] } of ways) {
      warmMemory(images, storedRamBytes);
      const ms = await run();
      say(`${round === 0 ? "warm-up" : `round ${round}`}, ${name}: ${(ms / 1000).toFixed(2)} s`);
      if (round > 0) measured.get(name)!.push(ms);
      if (file !== undefined) sizes.set(name, storedBytes(file));
      for (const old of done) rmSync(path(old));
    }
  }
  const qemuSave = measured.get(ways[0]!.name)!;
  const qemuLoad = measured.get("load: QEMU, its own file")!;
  for (const { name } of ways) {
    const times = measured.get(name)!;
    const { min, max } = spread(times);
    const to = name.startsWith("load") ? qemuLoad : qemuSave;
    const size = sizes.get(name);
    process.stdout.write(
      `${name.padEnd(42)} ${(median(times) / 1000).toFixed(2)} s (${(min / 1000).toFixed(2)}–${(max / 1000).toFixed(2)})` +
        `  × QEMU ${medianRatio(to, times).toFixed(2)}${size === undefined ? "" : `  ${(size / 1e6).toFixed(0)} MB`}\n`,
    );
  }
} finally {
  rmSync(dir, { recursive: true, force: true });
  removeScratchDir(images);
}
