/**
 * Snapshot: a stopped guest in one file, whichever of the two forms it has.
 *
 * QEMU's mapped-ram, where every page has its place, or our compressed form,
 * where it is in a frame. Either stands alone: RAM, firmware blocks, device part and
 * machine type are inside. Opening one reads everything but the pages, and refuses
 * a file that is cut or damaged, with the place.
 */
import { type FileHandle, open } from "node:fs/promises";
import type { DevicePart, RamSource } from "@multifd/engine";
import type { RamBlock } from "@multifd/memory";
import {
  COMPRESSED_SNAPSHOT_MAGIC_BYTES,
  MAIN_MAGIC_BYTES,
  MigrationError,
  ProtocolError,
  placeError,
  SystemError,
} from "@multifd/protocol";
import { openCompressed } from "./compressed-reader.js";
import { openMappedRam } from "./mapped-ram-reader.js";

export type SnapshotForm = "mapped-ram" | "compressed";

export interface Snapshot {
  readonly form: SnapshotForm;
  readonly path: string;
  readonly fileBytes: number;
  readonly machineType: string;
  readonly pageBytes: number;
  /** As the configuration lists them, but for mapped-ram, which is the file's affair. */
  readonly capabilities: readonly string[];
  readonly uuid: Uint8Array | null;
  /** In the stream's order. */
  readonly blocks: readonly RamBlock[];
  /** As a migration stream has it: without capability mapped-ram. */
  readonly devices: DevicePart;
  /** Of the devices, JSON. */
  readonly description: string;
  /** Where the devices begin: in a mapped-ram file, its offset; in the compressed form, in the stream that its index holds. */
  readonly devicesAt: number;
  /** As a source guest has its RAM; the descriptors stay the snapshot's. */
  readonly ram: readonly RamSource[];
  /** Whether a page holds something; the others are zeros. */
  hasPage(block: number, page: number): boolean;
  /** Pages of a block that hold something. */
  countPages(block: number): number;
  /**
   * Reads one page, zeros included.
   *
   * @param out  `pageBytes` long.
   * @throws {ProtocolError} SNAPSHOT_DAMAGED, SNAPSHOT_CUT; only the compressed form can tell.
   */
  readPage(block: number, page: number, out: Uint8Array): void;
  close(): Promise<void>;
}

/**
 * Opens a snapshot of either form.
 *
 * @throws {ProtocolError} SNAPSHOT_NOT_MAPPED for a plain migration stream, such as a device file; SNAPSHOT_MAGIC for what
 *   is neither; SNAPSHOT_CUT, SNAPSHOT_DAMAGED and whatever the stream's decoder refuses, with the byte.
 * @throws {SystemError} where the file cannot be read.
 */
export async function openSnapshot(path: string): Promise<Snapshot> {
  let file: FileHandle;
  try {
    file = await open(path, "r");
  } catch (error) {
    throw fileError(path, error);
  }
  try {
    const { size } = await file.stat();
    const magic = Buffer.alloc(MAIN_MAGIC_BYTES.length);
    await file.read(magic, 0, magic.length, 0);
    if (magic.equals(COMPRESSED_SNAPSHOT_MAGIC_BYTES)) return await openCompressed(path, file, size);
    if (magic.equals(MAIN_MAGIC_BYTES)) return await openMappedRam(path, file, size);
    throw new ProtocolError(
      "SNAPSHOT_MAGIC",
      `it begins with ${magic.toString("hex") || "nothing"}; 5145564d (mapped-ram) or 4d464453 (compressed) was due; this is no snapshot`,
    );
  } catch (error) {
    await file.close();
    throw error instanceof MigrationError ? cutFile(placeError(error, path)) : fileError(path, error);
  }
}

/** A file does not end because a peer went away. */
function cutFile(error: unknown): unknown {
  if (!(error instanceof MigrationError) || error.code !== "STREAM_CUT") return error;
  const message = error.message.replace(/; see why .*$/, "; the file has been cut short, or its writing never ended");
  return new ProtocolError("SNAPSHOT_CUT", message, { cause: error });
}

function fileError(path: string, error: unknown): unknown {
  const { code, message } = error as NodeJS.ErrnoException;
  if (error instanceof RangeError) {
    const text = `${path}: its account of pages does not fit this machine's memory (${message}); the file is damaged`;
    return new ProtocolError("SNAPSHOT_SIZE", text, { cause: error });
  }
  return code === undefined ? error : new SystemError(`SYSTEM_${code}`, `${path}: ${message}`, { cause: error });
}
