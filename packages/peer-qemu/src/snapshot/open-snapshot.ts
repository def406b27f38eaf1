/**
 * Opening a snapshot of either form, told by its first bytes.
 *
 * It reads everything but the pages, and refuses a file that is cut or damaged, with the place.
 */
import { type FileHandle, open } from "node:fs/promises";
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
import type { Snapshot } from "./snapshot.js";

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
