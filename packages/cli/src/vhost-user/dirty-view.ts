/**
 * Dirty view: what a back-end writes into a guest's memory, interval by interval.
 *
 * Attaches the back-end to memory files and rings that are there already, as their
 * front-end. The guest's driver cannot know our events, so the rings are kicked at
 * every interval; a back-end finds then what the driver has made available since.
 *
 * Owns the files it opens and the events.
 */
import { closeSync, fstatSync, openSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { DirtyBitmap, describeRamBlock, type RamBlock } from "@multifd/memory";
import { closeDescriptor, createEvent, signalEvent } from "@multifd/native";
import {
  AttachedDevice,
  type FrontEnd,
  type GuestRun,
  LOG_PAGE_BYTES,
  LogTracker,
  type MemoryRegion,
  type Ring,
} from "@multifd/peer-vhost-user";
import { ConfigError, SystemError } from "@multifd/protocol";

/** A file that holds guest memory from this address on. */
export type MemoryFile = { readonly guestAddress: number; readonly path: string };
/** A ring, and where it goes on. */
export type PlacedRing = Ring & { readonly base: number };

/** Runs of pages that were written since the one before. */
export type DirtyInterval = {
  readonly event: "dirty";
  readonly elapsedMs: number;
  readonly pages: number;
  readonly bytes: number;
  /** First and last byte of each run of pages, guest-physical. */
  readonly ranges: readonly { readonly first: number; readonly last: number }[];
};

export type DirtyViewTerms = {
  readonly features: bigint;
  readonly memory: readonly MemoryFile[];
  readonly rings: readonly PlacedRing[];
  readonly intervalMs: number;
  /** After so many it ends; 0 for as long as the signal allows. */
  readonly intervals: number;
};

/**
 * Watches until the intervals are over or the signal comes; then the rings are stopped.
 *
 * @returns pages dirtied in all, and where each ring stands.
 */
export async function watchDirty(
  frontEnd: FrontEnd,
  terms: DirtyViewTerms,
  onInterval: (interval: DirtyInterval) => void,
  signal: AbortSignal,
): Promise<{ readonly pages: number; readonly bases: readonly number[] }> {
  const files: MappedFile[] = [];
  // Nobody listens to the calls; but libvhost-user back-ends drop a front-end that gives them nothing to call.
  const events = terms.rings.map(() => ({ kick: createEvent(), call: createEvent() }));
  try {
    for (const [index, file] of terms.memory.entries()) files.push(openMemory(file, index));
    const device = new AttachedDevice(
      frontEnd,
      {
        features: terms.features,
        memory: files.map(({ region }) => region),
        rings: terms.rings,
        events,
      },
      terms.rings.map(({ base }) => base),
    );
    const tracker = new LogTracker(
      [device],
      files.map(({ run }) => run),
    );
    try {
      await tracker.start(files.map(({ block }) => block));
      await device.start();
      const kicks = events.map(({ kick }) => kick);
      const pages = await watch(tracker, files, kicks, terms, onInterval, signal);
      await device.suspend();
      return { pages, bases: device.bases };
    } finally {
      await tracker.stop();
    }
  } finally {
    for (const { kick, call } of events) for (const event of [kick, call]) closeDescriptor(event);
    for (const { region } of files) closeSync(region.descriptor);
  }
}

type MappedFile = { readonly region: MemoryRegion; readonly run: GuestRun; readonly block: RamBlock };

async function watch(
  tracker: LogTracker,
  files: readonly MappedFile[],
  kicks: readonly number[],
  { intervalMs, intervals }: DirtyViewTerms,
  onInterval: (interval: DirtyInterval) => void,
  signal: AbortSignal,
): Promise<number> {
  const startedMs = performance.now();
  let total = 0;
  for (let interval = 0; intervals === 0 || interval < intervals; interval++) {
    for (const kick of kicks) signalEvent(kick);
    try {
      await sleep(intervalMs, null, { signal });
    } catch {
      return total; // whoever watches has seen enough
    }
    const ranges = files.flatMap((file, index) => harvest(tracker, file, index));
    const bytes = ranges.reduce((sum, { first, last }) => sum + last + 1 - first, 0);
    total += bytes / LOG_PAGE_BYTES;
    const elapsedMs = Math.round(performance.now() - startedMs);
    onInterval({ event: "dirty", elapsedMs, pages: bytes / LOG_PAGE_BYTES, bytes, ranges });
  }
  return total;
}

function harvest(tracker: LogTracker, { block, region }: MappedFile, index: number): { first: number; last: number }[] {
  const dirty = new DirtyBitmap(block.pageCount);
  tracker.harvest(index, dirty);
  const ranges: { first: number; last: number }[] = [];
  for (let page = 0; page < block.pageCount; page++) {
    if (!dirty.has(page)) continue;
    const first = region.guestAddress + page * LOG_PAGE_BYTES;
    const before = ranges.at(-1);
    if (before?.last === first - 1) before.last += LOG_PAGE_BYTES;
    else ranges.push({ first, last: first + LOG_PAGE_BYTES - 1 });
  }
  return ranges;
}

/** @throws {SystemError} where the file cannot be opened; {ConfigError} VHOST_MEMORY_REGION. */
function openMemory({ guestAddress, path }: MemoryFile, index: number): MappedFile {
  let descriptor: number;
  try {
    descriptor = openSync(path, "r+");
  } catch (cause) {
    const { code, message } = cause as NodeJS.ErrnoException;
    throw new SystemError(`SYSTEM_${code}`, `${path}: ${message}`, { cause });
  }
  const lengthBytes = fstatSync(descriptor).size;
  const block = describeRamBlock(path, lengthBytes, LOG_PAGE_BYTES);
  if (block === null || guestAddress % LOG_PAGE_BYTES !== 0) {
    closeSync(descriptor);
    throw new ConfigError(
      "VHOST_MEMORY_REGION",
      `${path}: ${lengthBytes} bytes at guest address 0x${guestAddress.toString(16)} are not made of whole 4096-byte pages`,
    );
  }
  return {
    region: { guestAddress, lengthBytes, descriptor, offsetBytes: 0 },
    run: { block: index, offsetBytes: 0, guestAddress, lengthBytes },
    block,
  };
}
