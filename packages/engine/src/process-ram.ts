/**
 * Process RAM: where another process maps a RAM block's file.
 *
 * A file is known by device and inode, which the kernel tells of every mapping;
 * its name may be missing (memfd) or long gone. A process may map a file in several
 * pieces, and a piece twice: a write through any of them writes the guest's RAM,
 * so all that are shared and writable count, and together they have to cover the block.
 *
 * Source: proc(5), /proc/PID/maps.
 */
import { fstatSync, readFileSync } from "node:fs";
import type { RamBlock } from "@multifd/memory";
import { SystemError } from "@multifd/protocol";
import type { RamSource } from "./guest.js";

/** A line of /proc/PID/maps that has a file behind it. */
export type FileMapping = {
  readonly address: number;
  readonly lengthBytes: number;
  /** Where in the file it begins. */
  readonly fileOffsetBytes: number;
  readonly shared: boolean;
  readonly writable: boolean;
  /** Device and inode, as one word. */
  readonly file: string;
  readonly path: string;
};

/** A piece of a RAM block in another process's memory. */
export type MappedRun = {
  readonly address: number;
  readonly lengthBytes: number;
  /** Where in the block it begins; whole pages. */
  readonly blockOffsetBytes: number;
};

/** A block that one mapping holds whole. */
export function wholeBlock(address: number, block: RamBlock): readonly MappedRun[] {
  return [{ address, lengthBytes: block.lengthBytes, blockOffsetBytes: 0 }];
}

const LINE = /^([0-9a-f]+)-([0-9a-f]+) ([r-])([w-])[x-]([sp]) ([0-9a-f]+) ([0-9a-f]+:[0-9a-f]+) (\d+) *(.*)$/;

/** Reads what /proc/PID/maps says about mappings of files. */
export function parseMappings(maps: string): FileMapping[] {
  const found: FileMapping[] = [];
  for (const line of maps.split("\n")) {
    const match = LINE.exec(line);
    if (match === null || match[8] === "0") continue;
    const [, start, end, , write, share, offset, device, inode, path] = match as unknown as string[];
    const address = Number.parseInt(start!, 16);
    found.push({
      address,
      lengthBytes: Number.parseInt(end!, 16) - address,
      fileOffsetBytes: Number.parseInt(offset!, 16),
      shared: share === "s",
      writable: write === "w",
      file: `${device} ${inode}`,
      path: path!,
    });
  }
  return found;
}

/**
 * The mappings of files of a process.
 *
 * @throws {SystemError} PROCESS_GONE, SYSTEM_EACCES and its like.
 */
export function mappingsOf(pid: number): FileMapping[] {
  try {
    return parseMappings(readFileSync(`/proc/${pid}/maps`, "latin1"));
  } catch (cause) {
    const { code, message } = cause as NodeJS.ErrnoException;
    if (code === "ENOENT" || code === "ESRCH") {
      throw new SystemError("PROCESS_GONE", `process ${pid} does not run (any more)`, { cause });
    }
    throw new SystemError(
      `SYSTEM_${code ?? "ERROR"}`,
      `reading the mappings of process ${pid}: ${message}; run as root, or as the user who runs that process`,
      { cause },
    );
  }
}

/** Device and inode of an open file, as /proc/PID/maps writes them. */
export function fileIdentity(descriptor: number): string {
  const { dev, ino } = fstatSync(descriptor, { bigint: true });
  const major = ((dev >> 8n) & 0xfffn) | ((dev >> 32n) & ~0xfffn);
  const minor = (dev & 0xffn) | ((dev >> 12n) & ~0xffn);
  const hex = (part: bigint) => part.toString(16).padStart(2, "0");
  return `${hex(major)}:${hex(minor)} ${ino}`;
}

/** The shared, writable mappings that hold part of a block, and the block's pieces in them. */
export type RamInProcess = { readonly mappings: readonly FileMapping[]; readonly runs: readonly MappedRun[] };

/**
 * Finds a RAM block in a process.
 *
 * @param mappings  Of that process.
 * @throws {SystemError} RAM_NOT_MAPPED, RAM_NOT_SHARED, RAM_PARTLY_MAPPED.
 */
export function findRam(pid: number, mappings: readonly FileMapping[], ram: RamSource): RamInProcess {
  const { block, offsetBytes } = ram;
  const file = fileIdentity(ram.descriptor);
  const end = offsetBytes + block.lengthBytes;
  const ofFile = mappings.filter((mapping) => mapping.file === file);
  if (ofFile.length === 0) {
    throw new SystemError(
      "RAM_NOT_MAPPED",
      `process ${pid} does not map the file of RAM block "${block.name}" (device and inode ${file}); is it the right process and the right file?`,
    );
  }
  const holding = ofFile
    .filter(({ fileOffsetBytes, lengthBytes }) => fileOffsetBytes < end && fileOffsetBytes + lengthBytes > offsetBytes)
    .filter(({ shared, writable }) => shared && writable);
  if (holding.length === 0) {
    throw new SystemError(
      "RAM_NOT_SHARED",
      `process ${pid} maps the file of RAM block "${block.name}" privately: its writes never reach the file; start QEMU with share=on on that memory backend`,
    );
  }
  const runs = holding.map(({ address, fileOffsetBytes, lengthBytes }) => {
    const from = Math.max(fileOffsetBytes, offsetBytes);
    const to = Math.min(fileOffsetBytes + lengthBytes, end);
    return {
      address: address + (from - fileOffsetBytes),
      lengthBytes: to - from,
      blockOffsetBytes: from - offsetBytes,
    };
  });
  let covered = 0;
  for (const { blockOffsetBytes, lengthBytes } of runs.toSorted((a, b) => a.blockOffsetBytes - b.blockOffsetBytes)) {
    if (blockOffsetBytes <= covered) covered = Math.max(covered, blockOffsetBytes + lengthBytes);
  }
  if (covered < block.lengthBytes) {
    throw new SystemError(
      "RAM_PARTLY_MAPPED",
      `process ${pid} maps RAM block "${block.name}" only up to offset 0x${covered.toString(16)} of 0x${block.lengthBytes.toString(16)} without a gap; what lies behind could change unseen`,
    );
  }
  return { mappings: holding, runs };
}
