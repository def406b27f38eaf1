/**
 * Tracking of guest RAM that is not one file with a name: huge pages, NUMA nodes, a memfd, a file mapped in pieces.
 *
 * Huge pages are reserved for the time of the test on a hugetlbfs of its own, which only root may.
 */
import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { closeSync, mkdirSync, readdirSync, readFileSync, readlinkSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { attachTracking, type RamSource } from "@multifd/engine";
import {
  bootGuestSector,
  createScratchDir,
  QemuProcess,
  type QemuVersion,
  removeScratchDir,
  sixteenMegabytes,
  waitForProgress,
  waitForSweep,
} from "../peers/index.js";
import { changedPages, harvested, noTraces, ramSource, readRam, tracesOf } from "./tracked-qemu.js";

const MIB = 2 ** 20;
const HUGE_PAGES = "/proc/sys/vm/nr_hugepages";
const bootSector = bootGuestSector(sixteenMegabytes);
const versions: readonly QemuVersion[] = ["7.2", "11.1"];

/** Lets the guest run between two stops; what changed in each block must be in its harvest. @returns pages changed. */
async function checkHarvests(vm: QemuProcess, ram: readonly RamSource[], statePath: string): Promise<number> {
  const { tracker } = await attachTracking({ pid: vm.pid, ram });
  await tracker.start(ram.map(({ block }) => block));
  await vm.execute("stop");
  for (const [index, { block }] of ram.entries()) harvested(tracker, index, block);
  const before = ram.map((each) => readRam(each));
  await vm.execute("cont");
  const { sweep } = await waitForSweep(statePath, 0);
  await waitForSweep(statePath, sweep + 2);
  await vm.execute("stop");
  let count = 0;
  for (const [index, each] of ram.entries()) {
    const dirty = harvested(tracker, index, each.block);
    const changed = changedPages(each, before[index]!);
    assert.ok(changed.length > 0, `nothing changed in ${each.block.name}`);
    const missed = changed.filter((page) => !dirty.has(page));
    assert.deepEqual(missed, [], `pages of ${each.block.name} that changed and were not harvested`);
    assert.equal(harvested(tracker, index, each.block).count(), 0);
    count += changed.length;
  }
  await vm.execute("cont");
  await tracker.stop();
  for (const { descriptor } of ram) assert.deepEqual(tracesOf(vm.pid, descriptor), noTraces);
  await waitForProgress(statePath);
  return count;
}

for (const version of versions) {
  describe(`tracking a QEMU ${version}`, function () {
    this.timeout(60_000);
    let dir: string;
    let vm: QemuProcess | null = null;
    let ram: RamSource[] = [];
    beforeEach(() => {
      dir = createScratchDir();
    });
    afterEach(async () => {
      await vm?.stop();
      vm = null;
      for (const { descriptor } of ram) closeSync(descriptor);
      ram = [];
      removeScratchDir(dir);
    });

    it("whose RAM lies in two NUMA nodes", async () => {
      const memory = ["one", "two"].map((id) => ({ id, path: join(dir, id), bytes: 16 * MIB }));
      vm = await QemuProcess.start({ version, memory, bootSector });
      await waitForSweep(memory[0]!.path, 1);
      ram = memory.map(({ id, path, bytes }) => ramSource(id, path, bytes));
      assert.ok((await checkHarvests(vm, ram, memory[0]!.path)) >= sixteenMegabytes.pageCount);
    });

    it("whose RAM is a memfd", async () => {
      const backend = ["-m", "32M", "-object", "memory-backend-memfd,id=pc.ram,size=32M,share=on"];
      vm = await QemuProcess.start({
        version,
        machine: "pc,memory-backend=pc.ram",
        memory: [],
        bootSector,
        extraArgs: backend,
      });
      const folder = `/proc/${vm.pid}/fd`;
      const fd = readdirSync(folder).find((name) => readlinkSync(join(folder, name)).startsWith("/memfd:"));
      const path = join(folder, fd!);
      await waitForSweep(path, 1);
      ram = [ramSource("pc.ram", path, 32 * MIB)];
      assert.ok((await checkHarvests(vm, ram, path)) >= sixteenMegabytes.pageCount);
    });

    it("whose RAM is in huge pages (needs root, hugetlbfs and 32 MiB of memory in huge pages)", async () => {
      const folder = join(dir, "huge");
      const reserved = readFileSync(HUGE_PAGES, "utf8");
      writeFileSync(HUGE_PAGES, String(Number(reserved) + 16));
      try {
        mkdirSync(folder);
        execFileSync("mount", ["-t", "hugetlbfs", "-o", "pagesize=2M", "multifd-test", folder]);
        try {
          const path = join(folder, "ram");
          vm = await QemuProcess.start({ version, memory: [{ id: "pc.ram", path, bytes: 32 * MIB }], bootSector });
          await waitForSweep(path, 1);
          ram = [ramSource("pc.ram", path, 32 * MIB)];
          assert.ok((await checkHarvests(vm, ram, path)) >= sixteenMegabytes.pageCount);
        } finally {
          await vm?.stop();
          for (const { descriptor } of ram.splice(0)) closeSync(descriptor);
          execFileSync("umount", [folder]);
        }
      } finally {
        writeFileSync(HUGE_PAGES, reserved);
      }
    });
  });
}

/** Maps pages 0 to 9 of a file, then 10 to 31, then 13 to 20 once more; writes a page through one of them when told. */
const PIECES = `
import mmap, sys
PAGE = 4096
f = open(sys.argv[1], 'r+b')
pieces = [(0, 10), (10, 22), (13, 8)]
maps = [mmap.mmap(f.fileno(), n * PAGE, offset=at * PAGE) for at, n in pieces]
print('mapped', flush=True)
for line in sys.stdin:
    piece, page = map(int, line.split())
    at = (page - pieces[piece][0]) * PAGE
    maps[piece][at] = (maps[piece][at] + 1) % 256
    print('written', flush=True)
`;

describe("tracking a process that maps its RAM in pieces, and a piece twice", () => {
  it("sees a write through any of them, and its page", async () => {
    const dir = createScratchDir();
    const path = join(dir, "ram");
    writeFileSync(path, "");
    truncateSync(path, 32 * 4096);
    const child = spawn("python3", ["-c", PIECES, path], { stdio: ["pipe", "pipe", "inherit"] });
    const gone = once(child, "exit");
    const lines = createInterface({ input: child.stdout });
    const source = ramSource("ram", path, 32 * 4096);
    try {
      await once(lines, "line");
      const { tracker } = await attachTracking({ pid: child.pid!, ram: [source] });
      assert.equal(tracesOf(child.pid!, source.descriptor).registered, 3);
      await tracker.start([source.block]);
      for (const [piece, page] of [
        [0, 0],
        [0, 9],
        [1, 10],
        [1, 17],
        [1, 31],
        [2, 13],
        [2, 17],
        [2, 20],
      ] as const) {
        const written = once(lines, "line");
        child.stdin.write(`${piece} ${page}\n`);
        await written;
        const dirty = harvested(tracker, 0, source.block);
        assert.deepEqual(
          Array.from({ length: 32 }, (_, index) => index).filter((index) => dirty.has(index)),
          [page],
          `piece ${piece}`,
        );
      }
      await tracker.stop();
      assert.deepEqual(tracesOf(child.pid!, source.descriptor), noTraces);
    } finally {
      child.kill("SIGKILL");
      await gone;
      closeSync(source.descriptor);
      removeScratchDir(dir);
    }
  });
});
