/**
 * Snapshot keeper: the file that `qemu save` keeps a guest in.
 *
 * An existing file is never overwritten, for the guest in it may be the only one.
 * What was written is read back whole: the account of pages, the device part, and
 * every frame of a compressed snapshot, which has a checksum; mapped-ram has none.
 */
import { existsSync } from "node:fs";
import { rm, statfs } from "node:fs/promises";
import { dirname } from "node:path";
import { setImmediate as turn } from "node:timers/promises";
import { type GuestKeeper, openSnapshot, type Snapshot, type SnapshotForm } from "@multifd/peer-qemu";
import { ConfigError, SystemError } from "@multifd/protocol";
import { formatBytes } from "./quantities.js";
import { snapshotWriter } from "./snapshot-flags.js";

/** Pages read before others have their turn. */
const PAGES_A_TURN = 4096;

/** @throws {ConfigError} OUT_EXISTS. */
export function keepInSnapshot(path: string, form: SnapshotForm, level: number): GuestKeeper {
  if (existsSync(path)) {
    throw new ConfigError("OUT_EXISTS", `${path} exists; remove it, or save under another name`);
  }
  return {
    guest: snapshotWriter(path, form, level),
    room: (ramBytes) => roomWarning(path, ramBytes),
    readBack: async (signal) => {
      const snapshot = await openSnapshot(path);
      try {
        if (form === "compressed") await readEveryPage(snapshot, signal);
        return { machineType: snapshot.machineType, blocks: snapshot.blocks };
      } finally {
        await snapshot.close();
      }
    },
    discard: () => rm(path, { force: true }).catch(() => {}),
  };
}

/** Reads all there is; ends early when nobody wants to know any more. @throws {ProtocolError} SNAPSHOT_DAMAGED. */
async function readEveryPage(snapshot: Snapshot, signal: AbortSignal): Promise<void> {
  const out = new Uint8Array(snapshot.pageBytes);
  for (const [block, { pageCount }] of snapshot.blocks.entries()) {
    for (let page = 0; page < pageCount && !signal.aborted; page++) {
      if (snapshot.hasPage(block, page)) snapshot.readPage(block, page, out);
      if (page % PAGES_A_TURN === 0) await turn();
    }
  }
}

/** @returns A warning where a guest with that much RAM may not fit beside the file; RAM of zeros takes no room. */
async function roomWarning(path: string, ramBytes: number): Promise<string | null> {
  const folder = dirname(path);
  const freeBytes = await freeRoom(folder);
  if (freeBytes >= ramBytes) return null;
  return `${folder} has ${formatBytes(freeBytes)} free, the guest ${formatBytes(ramBytes)} of RAM: it fits only if much of that is zeros or compresses well`;
}

async function freeRoom(folder: string): Promise<number> {
  try {
    const { bavail, bsize } = await statfs(folder);
    return bavail * bsize;
  } catch (cause) {
    const { code, message } = cause as NodeJS.ErrnoException;
    throw new SystemError(`SYSTEM_${code ?? "ERROR"}`, `${folder}: ${message}`, { cause });
  }
}
