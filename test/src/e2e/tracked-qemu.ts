/**
 * Tracked QEMU: a VM whose boot guest writes, and what an attached tracker says of it against what its RAM shows.
 *
 * RAM is compared with a copy of itself, both taken while no vCPU runs, so every
 * page that changed in between is known without asking the tracker.
 */
import assert from "node:assert/strict";
import { closeSync, openSync, readdirSync, readFileSync, readlinkSync, readSync } from "node:fs";
import { join } from "node:path";
import { fileIdentity, type RamSource } from "@multifd/engine";
import { DirtyBitmap, type DirtyTracker, describeRamBlock, type RamBlock } from "@multifd/memory";
import {
  bootGuestSector,
  createScratchDir,
  type QemuOptions,
  QemuProcess,
  type QemuVersion,
  removeScratchDir,
  sixteenMegabytes,
  waitForSweep,
} from "../peers/index.js";

const MIB = 2 ** 20;
const PAGE_BYTES = 4096;
/** The guest's own stack and state, and what the firmware may still touch. */
const SAME_CONTENT_MAX = 8;

export type TrackedQemu = {
  readonly vm: QemuProcess;
  readonly path: string;
  readonly ram: readonly RamSource[];
  readonly block: RamBlock;
  close(): Promise<void>;
};

/** Starts a VM of 32 MiB with the boot guest in it, counting. `more` is told the directory of its RAM file. */
export async function startTrackedQemu(
  version: QemuVersion,
  more: (dir: string) => Partial<QemuOptions> = () => ({}),
): Promise<TrackedQemu> {
  const dir = createScratchDir();
  const path = join(dir, "ram");
  const vm = await QemuProcess.start({
    version,
    memory: [{ id: "pc.ram", path, bytes: 32 * MIB }],
    bootSector: bootGuestSector(sixteenMegabytes),
    ...more(dir),
  });
  const ram = ramSource("pc.ram", path, 32 * MIB);
  const close = async () => {
    await vm.stop();
    closeSync(ram.descriptor);
    removeScratchDir(dir);
  };
  try {
    await waitForSweep(path, 1);
    return { vm, path, ram: [ram], block: ram.block, close };
  } catch (error) {
    await close();
    throw error;
  }
}

/** A RAM file, opened; its descriptor is the caller's. */
export function ramSource(name: string, path: string, bytes: number): RamSource {
  return { block: describeRamBlock(name, bytes, PAGE_BYTES)!, descriptor: openSync(path, "r"), offsetBytes: 0 };
}

/** Pages of a file that differ from an earlier copy of it. */
export function changedPages({ descriptor, block }: RamSource, before: Buffer): number[] {
  const now = readRam({ descriptor, block, offsetBytes: 0 });
  const page = (ram: Buffer, index: number) => ram.subarray(index * PAGE_BYTES, (index + 1) * PAGE_BYTES);
  return Array.from({ length: block.pageCount }, (_, index) => index).filter(
    (index) => !page(now, index).equals(page(before, index)),
  );
}

export function readRam({ descriptor, block }: RamSource): Buffer {
  const bytes = Buffer.allocUnsafe(block.lengthBytes);
  for (let at = 0; at < bytes.length; ) at += readSync(descriptor, bytes, at, bytes.length - at, at);
  return bytes;
}

/** One block's harvest by itself. */
export function harvested(tracker: DirtyTracker, index: number, block: RamBlock): DirtyBitmap {
  const dirty = new DirtyBitmap(block.pageCount);
  tracker.harvest(index, dirty);
  return dirty;
}

/** Lets the guest run for some sweeps between two stops and checks that the harvest names every page that changed. */
export async function checkHarvest({ vm, path, ram, block }: TrackedQemu, tracker: DirtyTracker): Promise<void> {
  await vm.execute("stop");
  harvested(tracker, 0, block);
  const before = readRam(ram[0]!);
  await vm.execute("cont");
  const { sweep } = await waitForSweep(path, 0);
  await waitForSweep(path, sweep + 2);
  await vm.execute("stop");
  const dirty = harvested(tracker, 0, block);
  const changed = changedPages(ram[0]!, before);
  assert.ok(changed.length >= sixteenMegabytes.pageCount, `${changed.length} pages changed`);
  const missed = changed.filter((page) => !dirty.has(page));
  assert.deepEqual(missed, [], "pages that changed and were not harvested");
  assert.ok(dirty.count() <= changed.length + SAME_CONTENT_MAX, `${dirty.count()} for ${changed.length} that changed`);
  assert.equal(harvested(tracker, 0, block).count(), 0, "a stopped guest writes nothing");
  await vm.execute("cont");
}

/** What of a tracking can be seen in a process: a tracer, userfaultfds, registered mappings of a file. */
export function tracesOf(pid: number, descriptor: number) {
  const file = fileIdentity(descriptor);
  const tracer = Number(/^TracerPid:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))![1]);
  const userfaultfds = readdirSync(`/proc/${pid}/fd`).filter(
    (fd) => readlinkSync(`/proc/${pid}/fd/${fd}`) === "anon_inode:[userfaultfd]",
  ).length;
  // Each mapping is a head line, as in /proc/PID/maps, and its figures.
  const registered = readFileSync(`/proc/${pid}/smaps`, "utf8")
    .split(/^(?=[0-9a-f]+-[0-9a-f]+ )/m)
    .filter((mapping) => {
      const [, device, inode] = /^\S+ \S+ \S+ (\S+) (\d+)/.exec(mapping)!;
      return `${device} ${inode}` === file && /^VmFlags:.* uw\b/m.test(mapping);
    }).length;
  return { tracer, userfaultfds, registered };
}

export const noTraces = { tracer: 0, userfaultfds: 0, registered: 0 };
