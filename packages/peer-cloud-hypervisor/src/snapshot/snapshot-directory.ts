/**
 * Snapshot directory: a stopped guest in the three files that Cloud Hypervisor restores from.
 *
 *   config.json     the VM's configuration, as a migration's Config has it
 *   state.json      the tree of components, as a migration's State
 *   memory-ranges   the runs of RAM that state.json lists, one behind the other, no header
 *
 * `memory-ranges` says nothing about itself, so its length is all that can be held against
 * the list; the file is not there where the list is empty. Opening a directory reads everything but RAM,
 * and refuses one that was cut short. docs/cloud-hypervisor-snapshot.md has the facts by release.
 * Source: Cloud Hypervisor 22.0 to 53.0, vmm/src/vm.rs, Vm::send(); vmm/src/memory_manager.rs, fill_saved_regions().
 */
import { type FileHandle, open, readdir } from "node:fs/promises";
import { join } from "node:path";
import {
  CONFIG_BYTES_MAX,
  composeConfig,
  type MemoryRange,
  ProtocolError,
  placeError,
  readSavedMemory,
  readStateTree,
  type SavedMemory,
  STATE_BYTES_MAX,
  type StateNode,
  unsavedRam,
} from "@multifd/protocol";
import { onFile } from "./file-action.js";

export const CONFIG_FILE = "config.json";
export const STATE_FILE = "state.json";
export const MEMORY_FILE = "memory-ranges";
/** What took the place of the two JSON files before 22.0. */
const OLD_STATE_FILE = "vm.json";

/** A run of guest RAM in the snapshot's file. */
export type SavedRange = {
  readonly gpa: bigint;
  readonly lengthBytes: number;
  readonly fileOffsetBytes: number;
};

export type SnapshotDirectory = {
  readonly path: string;
  /** `config.json`, to the byte. */
  readonly vmConfig: Uint8Array;
  /** `state.json`, to the byte. */
  readonly state: Uint8Array;
  readonly tree: StateNode;
  readonly memory: SavedMemory;
  /** In the file's order. */
  readonly ranges: readonly SavedRange[];
  /** RAM that the VM has and the snapshot has not: it is in files of its own at the source. */
  readonly unsaved: readonly MemoryRange[];
  /** `memory-ranges`, open for reading until `close`; null where no range is saved. */
  readonly file: FileHandle | null;
  close(): Promise<void>;
};

/**
 * Opens a snapshot directory.
 *
 * @throws {ProtocolError} SNAPSHOT_MAGIC for a directory that is none; SNAPSHOT_CUT where a file is missing or too
 *   short; SNAPSHOT_DAMAGED where it is too long; JSON_SYNTAX, STATE_SHAPE, MEMORY_DATA … with the file.
 * @throws {SystemError} where a file cannot be read.
 */
export async function openSnapshotDirectory(path: string): Promise<SnapshotDirectory> {
  await checkFiles(path);
  const vmConfig = await readWhole(join(path, CONFIG_FILE), CONFIG_BYTES_MAX);
  const state = await readWhole(join(path, STATE_FILE), STATE_BYTES_MAX);
  const { tree, memory } = placed(join(path, STATE_FILE), () => {
    const tree = readStateTree(state);
    return { tree, memory: readSavedMemory(tree) };
  });
  placed(path, () => composeConfig(vmConfig, tree)); // so that every text in it is known to be sound
  const ranges = placeRanges(join(path, STATE_FILE), memory.ranges);
  const file = await openMemory(join(path, MEMORY_FILE), ranges);
  return {
    path,
    vmConfig,
    state,
    tree,
    memory,
    ranges,
    unsaved: unsavedRam(memory),
    file,
    close: async () => file?.close(),
  };
}

async function checkFiles(path: string): Promise<void> {
  const names = new Set(await onFile(path, () => readdir(path)));
  if (names.has(CONFIG_FILE) && names.has(STATE_FILE)) return;
  if (names.has(OLD_STATE_FILE))
    throw new ProtocolError(
      "SNAPSHOT_VERSION",
      `${path} has ${OLD_STATE_FILE}: it is a snapshot of a Cloud Hypervisor before 22.0, and only that restores it`,
    );
  const missing = [CONFIG_FILE, STATE_FILE].filter((name) => !names.has(name));
  if (missing.length === 1 || names.has(MEMORY_FILE)) throw cut(path, `has no ${missing.join(" and no ")}`);
  throw new ProtocolError(
    "SNAPSHOT_MAGIC",
    `${path} is a directory without ${CONFIG_FILE} and ${STATE_FILE}; it is no snapshot of Cloud Hypervisor`,
  );
}

async function readWhole(path: string, bytesMax: number): Promise<Uint8Array> {
  return onFile(path, async () => {
    const file = await open(path, "r");
    try {
      const { size } = await file.stat();
      if (size === 0) throw cut(path, "is empty");
      if (size > bytesMax)
        throw new ProtocolError("SNAPSHOT_SIZE", `${path} has ${size} bytes, at most ${bytesMax} are read`);
      return await file.readFile();
    } finally {
      await file.close();
    }
  });
}

/** Ranges follow each other in the file without a gap. */
function placeRanges(path: string, ranges: readonly MemoryRange[]): readonly SavedRange[] {
  let fileOffsetBytes = 0;
  return ranges.map(({ gpa, lengthBytes }) => {
    const range = { gpa, lengthBytes: Number(lengthBytes), fileOffsetBytes };
    fileOffsetBytes += range.lengthBytes;
    if (Number.isSafeInteger(fileOffsetBytes)) return range;
    throw new ProtocolError("SNAPSHOT_SIZE", `${path}: its memory ranges come to more than 2^53 bytes`);
  });
}

async function openMemory(path: string, ranges: readonly SavedRange[]): Promise<FileHandle | null> {
  const last = ranges.at(-1);
  if (last === undefined) return null;
  const due = last.fileOffsetBytes + last.lengthBytes;
  const file = await onFile(path, () => open(path, "r")).catch((error: { readonly code?: string }) => {
    if (error.code !== "SYSTEM_ENOENT") throw error;
    throw cut(path, `is missing, and ${STATE_FILE} lists ${ranges.length} memory ranges`);
  });
  try {
    const { size } = await onFile(path, () => file.stat());
    if (size < due) throw cut(path, `has ${size} bytes, ${STATE_FILE} lists ${due}`);
    if (size > due)
      throw new ProtocolError(
        "SNAPSHOT_DAMAGED",
        `${path} has ${size} bytes, ${STATE_FILE} lists ${due}; they do not belong together`,
      );
    return file;
  } catch (error) {
    await file.close();
    throw error;
  }
}

function cut(path: string, what: string): ProtocolError {
  return new ProtocolError(
    "SNAPSHOT_CUT",
    `${path} ${what}; the snapshot was not written to its end, or only part of it was copied`,
  );
}

function placed<T>(path: string, read: () => T): T {
  try {
    return read();
  } catch (error) {
    throw placeError(error, path);
  }
}
