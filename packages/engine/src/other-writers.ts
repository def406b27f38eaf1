/**
 * Other writers: who could change a guest's RAM without the tracked process's own mappings seeing it.
 *
 * The kernel's write protection belongs to a mapping. Another process that maps
 * the same file (a vhost-user back-end) writes through a mapping of its own, and a
 * device that was given the pages (VFIO, vDPA) through none at all. A disk that is
 * read past the page cache (O_DIRECT) writes where the mapping counts as written
 * from the moment it is asked: if a harvest comes before its answer, the answer goes unseen. Each of
 * them would lose writes in silence, so each is named before anything starts.
 *
 * Only what we may look at is found: to see other users' processes takes root.
 */
import { constants, readdirSync, readFileSync, readlinkSync } from "node:fs";
import { SystemError } from "@multifd/protocol";
import { parseMappings } from "./process-ram.js";

/** Devices that write pages by DMA once they have been handed over, by the file a process holds open. */
const DMA_DEVICES = /^\/dev\/(vfio\/|iommu$|vhost-vdpa)/;

function commandOf(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/comm`, "utf8").trim();
  } catch {
    return "?"; // gone meanwhile
  }
}

function mapsWritable(pid: number, files: ReadonlySet<string>): boolean {
  try {
    return parseMappings(readFileSync(`/proc/${pid}/maps`, "latin1")).some(
      ({ shared, writable, file }) => shared && writable && files.has(file),
    );
  } catch {
    return false; // gone meanwhile, or not ours to read
  }
}

/**
 * @param files     The RAM files, by `fileIdentity`.
 * @param tracked   Processes that need no second look: the guest's, and those whose writes another tracker sees.
 * @throws {SystemError} RAM_WRITTEN_ELSEWHERE, naming every process that maps a RAM file writable.
 */
export function refuseOtherWriters(files: ReadonlySet<string>, tracked: ReadonlySet<number>): void {
  const others = readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((pid) => pid !== process.pid && !tracked.has(pid) && mapsWritable(pid, files));
  if (others.length === 0) return;
  const named = others.map((pid) => `${pid} (${commandOf(pid)})`).join(", ");
  throw new SystemError(
    "RAM_WRITTEN_ELSEWHERE",
    `the guest's RAM is also mapped by process ${named}, whose writes are not seen; a vhost-user back-end's dirty log has to be connected beside, or the device unplugged`,
  );
}

/** @throws {SystemError} RAM_WRITTEN_BY_DEVICE, where the process has handed its memory to a device. */
export function refuseDmaDevices(pid: number): void {
  for (const descriptor of descriptorsOf(pid)) {
    const target = descriptorTarget(pid, descriptor);
    if (!DMA_DEVICES.test(target)) continue;
    throw new SystemError(
      "RAM_WRITTEN_BY_DEVICE",
      `process ${pid} has given its memory to ${target}, which writes it unseen; unplug that device before the migration`,
    );
  }
}

/** Files that a process reads past the page cache, by name: QEMU does with cache.direct=on (cache=none, directsync). */
export function directIoFiles(pid: number): string[] {
  const found = new Set<string>();
  for (const descriptor of descriptorsOf(pid)) {
    const target = descriptorTarget(pid, descriptor);
    if (target.startsWith("/") && (openFlags(pid, descriptor) & constants.O_DIRECT) !== 0) found.add(target);
  }
  return [...found];
}

/** @throws {SystemError} RAM_WRITTEN_BY_DIRECT_IO, where the process reads files past the page cache. */
export function refuseDirectIo(pid: number): void {
  const files = directIoFiles(pid);
  if (files.length === 0) return;
  throw new SystemError(
    "RAM_WRITTEN_BY_DIRECT_IO",
    `process ${pid} reads ${files.join(", ")} past the page cache, and what arrives in the guest's RAM while its pages are harvested would go unseen; open its disks with cache.direct=off`,
  );
}

function openFlags(pid: number, descriptor: number): number {
  try {
    const flags = /^flags:\s+([0-7]+)/m.exec(readFileSync(`/proc/${pid}/fdinfo/${descriptor}`, "latin1"))?.[1];
    return Number.parseInt(flags ?? "0", 8);
  } catch {
    return 0; // closed meanwhile
  }
}

/** The numbers of a process's open descriptors; none where we may not look. */
export function descriptorsOf(pid: number): number[] {
  try {
    return readdirSync(`/proc/${pid}/fd`).map(Number);
  } catch {
    return [];
  }
}

/** What a descriptor of a process stands for, as /proc tells; empty where it is gone. */
export function descriptorTarget(pid: number, descriptor: number): string {
  try {
    return readlinkSync(`/proc/${pid}/fd/${descriptor}`);
  } catch {
    return "";
  }
}
