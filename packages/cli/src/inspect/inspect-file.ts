/** Inspects a file, whatever it is: a snapshot of either form, or a recorded stream. */
import { ConfigError, MigrationError, SystemError } from "@multifd/protocol";
import type { Inspection } from "./inspection.js";
import { inspectSnapshot } from "./snapshot-inspection.js";
import { inspectStream } from "./stream-inspection.js";

/** What a snapshot's reader says of a file that is no snapshot. */
const NO_SNAPSHOT: ReadonlySet<string> = new Set(["SNAPSHOT_NOT_MAPPED", "SNAPSHOT_MAGIC"]);

/**
 * Reads a whole file.
 *
 * @param ramFiles  File by name of the RAM blocks that have files of their own.
 * @returns What could be read; `failure` says why it is not all.
 * @throws {SystemError} where a file cannot be read; {ConfigError} RAM_BLOCK_UNKNOWN, RAM_SIZE_MISMATCH, RAM_IN_SNAPSHOT.
 */
export async function inspectFile(path: string, ramFiles: ReadonlyMap<string, string>): Promise<Inspection> {
  try {
    const snapshot = await snapshotOrNull(path);
    if (snapshot === null) return await inspectStream(path, ramFiles);
    if (ramFiles.size === 0) return snapshot;
    throw new ConfigError("RAM_IN_SNAPSHOT", `${path} is a snapshot and has its RAM inside; leave --ram out`);
  } catch (cause) {
    const { code, message } = cause as NodeJS.ErrnoException;
    if (cause instanceof MigrationError || code === undefined) throw cause;
    throw new SystemError(`SYSTEM_${code}`, `${path}: ${message}`, { cause });
  }
}

async function snapshotOrNull(path: string): Promise<Inspection | null> {
  try {
    return await inspectSnapshot(path);
  } catch (error) {
    if (error instanceof MigrationError && NO_SNAPSHOT.has(error.code)) return null;
    throw error;
  }
}
