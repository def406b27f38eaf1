/**
 * Snapshot writer: a received migration as a directory that Cloud Hypervisor restores from.
 *
 * Everything is written into PATH.partial and synced; then the directory gets its name by one rename,
 * so under that name it is whole or not there. RAM comes long before State, which alone says
 * in which order `memory-ranges` has it; so it is laid down in the order of Config's mappings, which is
 * nearly always the same, and copied into another file where it is not.
 *
 * Owns the directory until it is finished or discarded.
 */
import { type FileHandle, mkdir, open, readdir, rename, rm, rmdir } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import {
  ConfigError,
  type MemoryRange,
  ProtocolError,
  placeError,
  readSavedMemory,
  readStateTree,
  unsavedRam,
  vmConfigOf,
} from "@multifd/protocol";
import { copyData } from "./copy-data.js";
import { onFile } from "./file-action.js";
import { CONFIG_FILE, MEMORY_FILE, STATE_FILE } from "./snapshot-directory.js";

/** A mapping and where the writer's file has it. */
type PlacedMapping = { readonly gpa: bigint; readonly lengthBytes: number; readonly fileOffsetBytes: number };
/** A piece of the writer's file, in the order in which the finished one has them. */
export type Piece = { readonly from: number; readonly lengthBytes: number };

const REORDERED_FILE = `${MEMORY_FILE}.reordered`;
const OUR_FILES = [CONFIG_FILE, STATE_FILE, MEMORY_FILE, REORDERED_FILE];

export class SnapshotWriter {
  readonly #path: string;
  readonly #partial: string;
  #memory: FileHandle | null = null;
  #mappings: readonly PlacedMapping[] = [];

  private constructor(path: string) {
    this.#path = resolve(path);
    this.#partial = `${this.#path}.partial`;
  }

  /**
   * Makes the directory in which the snapshot is written.
   *
   * @param path  The name that it gets: not there yet, or an empty directory.
   * @throws {ConfigError} OUT_EXISTS; {SystemError} what the file system refuses.
   */
  static async create(path: string): Promise<SnapshotWriter> {
    const writer = new SnapshotWriter(path);
    await writer.#checkFree();
    await onFile(writer.#partial, async () => {
      await mkdir(writer.#partial, { mode: 0o700 }).catch((error: NodeJS.ErrnoException) => {
        if (error.code !== "EEXIST") throw error;
      });
      // What is left of an earlier attempt is ours; anything else makes the rename at the end impossible, so it is said now.
      for (const name of OUR_FILES) await rm(join(writer.#partial, name), { force: true });
    });
    const foreign = await readdir(writer.#partial);
    if (foreign.length === 0) return writer;
    throw new ConfigError("OUT_EXISTS", `${writer.#partial} holds ${foreign[0]}, which is none of ours; remove it`);
  }

  async #checkFree(): Promise<void> {
    const names = await onFile(this.#path, () => readdir(this.#path)).catch((error: { readonly code?: string }) => {
      if (error.code === "SYSTEM_ENOENT") return [];
      if (error.code === "SYSTEM_ENOTDIR") return ["a file"];
      throw error;
    });
    if (names.length === 0) return;
    throw new ConfigError("OUT_EXISTS", `${this.#path} exists and is not empty; remove it, or name another directory`);
  }

  /**
   * Opens the file that takes RAM, all zeros.
   *
   * @returns Its descriptor, the writer's to close, and where each mapping begins in it.
   */
  async placeRam(
    mappings: readonly MemoryRange[],
  ): Promise<{ readonly descriptor: number; readonly offsets: readonly number[] }> {
    let end = 0;
    this.#mappings = mappings.map(({ gpa, lengthBytes }) => {
      const placed = { gpa, lengthBytes: Number(lengthBytes), fileOffsetBytes: end };
      end += placed.lengthBytes;
      return placed;
    });
    const path = join(this.#partial, MEMORY_FILE);
    this.#memory = await onFile(path, async () => {
      const file = await open(path, "w+", 0o600);
      try {
        await file.truncate(end);
        return file;
      } catch (error) {
        await file.close();
        throw error;
      }
    });
    return { descriptor: this.#memory.fd, offsets: this.#mappings.map(({ fileOffsetBytes }) => fileOffsetBytes) };
  }

  /**
   * Makes the snapshot whole: on its medium and under its name when this resolves.
   *
   * @param config  A migration's Config, to the byte.
   * @param state   Its State, to the byte.
   * @throws {ConfigError} SNAPSHOT_RAM_ELSEWHERE, where State leaves RAM out that was received.
   * @throws {ProtocolError} SNAPSHOT_RANGE, where it lists RAM that was not; what is no Config or no State.
   */
  async finish(config: Uint8Array, state: Uint8Array): Promise<void> {
    const vmConfig = vmConfigOf(config);
    const pieces = this.orderOf(state);
    await this.#arrange(pieces);
    await writeSynced(join(this.#partial, CONFIG_FILE), vmConfig);
    await writeSynced(join(this.#partial, STATE_FILE), state);
    await syncDirectory(this.#partial);
    await onFile(this.#path, () => rename(this.#partial, this.#path));
    await syncDirectory(dirname(this.#path));
  }

  /** Removes what was written. Never rejects. */
  async discard(): Promise<void> {
    await this.#memory?.close().catch(() => {});
    this.#memory = null;
    for (const name of OUR_FILES) await rm(join(this.#partial, name), { force: true }).catch(() => {});
    await rmdir(this.#partial).catch(() => {});
  }

  /** What State wants `memory-ranges` to hold. @throws as `finish`, which asks again. */
  orderOf(state: Uint8Array): readonly Piece[] {
    try {
      const memory = readSavedMemory(readStateTree(state));
      const [unsaved] = unsavedRam(memory);
      if (unsaved !== undefined)
        throw new ConfigError(
          "SNAPSHOT_RAM_ELSEWHERE",
          `RAM from 0x${unsaved.gpa.toString(16)} on (${unsaved.lengthBytes} bytes) is not among the ranges of a snapshot, for at the source a named file holds it; take the migration in with --ram, or start the source's VM without a file of its own for that zone`,
        );
      return merge(memory.ranges.flatMap((range) => this.#find(range)));
    } catch (error) {
      throw placeError(error, "State");
    }
  }

  #find(range: MemoryRange): readonly Piece[] {
    const pieces: Piece[] = [];
    const end = range.gpa + range.lengthBytes;
    for (let at = range.gpa; at < end; ) {
      const found = this.#mappings.find(({ gpa, lengthBytes }) => at >= gpa && at < gpa + BigInt(lengthBytes));
      if (found === undefined)
        throw new ProtocolError(
          "SNAPSHOT_RANGE",
          `the memory manager saved RAM at 0x${at.toString(16)}, where Config has none; they belong to different VMs`,
        );
      const inside = Number(at - found.gpa);
      const lengthBytes = Math.min(found.lengthBytes - inside, Number(end - at));
      pieces.push({ from: found.fileOffsetBytes + inside, lengthBytes });
      at += BigInt(lengthBytes);
    }
    return pieces;
  }

  /** Brings RAM into the order of the pieces, and onto its medium. */
  async #arrange(pieces: readonly Piece[]): Promise<void> {
    const memory = this.#memory!;
    const path = join(this.#partial, MEMORY_FILE);
    const due = pieces.reduce((sum, { lengthBytes }) => sum + lengthBytes, 0);
    const [first] = pieces;
    const isInOrder = pieces.length <= 1 && (first === undefined || first.from === 0);
    if (!isInOrder) {
      const reordered = join(this.#partial, REORDERED_FILE);
      await onFile(reordered, () => copyPieces(memory, reordered, pieces, due));
      await onFile(path, () => rename(reordered, path));
    } else
      await onFile(path, async () => {
        await memory.truncate(due);
        await memory.datasync();
      });
    this.#memory = null;
    await memory.close();
    if (first === undefined) await rm(path); // Cloud Hypervisor has no file then
  }
}

/** Neighbours that are neighbours in the file too become one. */
function merge(pieces: readonly Piece[]): readonly Piece[] {
  const merged: Piece[] = [];
  for (const piece of pieces) {
    const last = merged.at(-1);
    if (last !== undefined && last.from + last.lengthBytes === piece.from)
      merged[merged.length - 1] = { from: last.from, lengthBytes: last.lengthBytes + piece.lengthBytes };
    else merged.push(piece);
  }
  return merged;
}

/** The pieces one behind the other, in a file of their own. */
async function copyPieces(from: FileHandle, path: string, pieces: readonly Piece[], bytes: number): Promise<void> {
  const out = await open(path, "wx", 0o600);
  try {
    await out.truncate(bytes);
    let at = 0;
    for (const piece of pieces) {
      await copyData(
        { descriptor: from.fd, offsetBytes: piece.from },
        { descriptor: out.fd, offsetBytes: at },
        piece.lengthBytes,
      );
      at += piece.lengthBytes;
    }
    await out.datasync();
  } finally {
    await out.close();
  }
}

async function writeSynced(path: string, bytes: Uint8Array): Promise<void> {
  await onFile(path, async () => {
    const file = await open(path, "wx", 0o600);
    try {
      await file.writeFile(bytes);
      await file.sync();
    } finally {
      await file.close();
    }
  });
}

/** Names are on their medium once their directory is. */
async function syncDirectory(path: string): Promise<void> {
  await onFile(path, async () => {
    const directory = await open(path, "r");
    try {
      await directory.sync();
    } finally {
      await directory.close();
    }
  });
}
