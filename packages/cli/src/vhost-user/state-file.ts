/**
 * State file: a back-end's own state on disk, nothing around it.
 *
 * Written beside its name and moved there when the back-end has vouched for it, so
 * that a file under its own name is a good state.
 */
import { createReadStream } from "node:fs";
import { open, rm } from "node:fs/promises";
import { nameWholeFile, partialPath, syncFolder } from "@multifd/engine";
import { type FrontEnd, loadState, saveState } from "@multifd/peer-vhost-user";
import { MigrationError, SystemError } from "@multifd/protocol";

/** @returns bytes written. @throws {SystemError} where the file cannot be written; and what saving throws. */
export async function saveStateFile(frontEnd: FrontEnd, path: string, signal: AbortSignal): Promise<number> {
  const partial = partialPath(path);
  return await withSystemError(path, async () => {
    const file = await open(partial, "w", 0o600);
    let bytes = 0;
    try {
      for await (const chunk of saveState(frontEnd)) {
        signal.throwIfAborted();
        await file.writeFile(chunk); // all of it, where `write` may leave a part to be written again
        bytes += chunk.length;
      }
      await file.sync();
      await file.close();
      await nameWholeFile(path);
      await syncFolder(path);
      return bytes;
    } catch (error) {
      await file.close();
      await rm(partial, { force: true });
      throw error;
    }
  });
}

/** @returns bytes given. @throws {SystemError} where the file cannot be read; and what loading throws. */
export async function loadStateFile(frontEnd: FrontEnd, path: string, signal: AbortSignal): Promise<number> {
  return await withSystemError(path, async () => {
    let bytes = 0;
    const read = async function* () {
      for await (const chunk of createReadStream(path) as AsyncIterable<Buffer>) {
        signal.throwIfAborted();
        bytes += chunk.length;
        yield chunk;
      }
    };
    await loadState(frontEnd, read());
    return bytes;
  });
}

async function withSystemError<Result>(path: string, act: () => Promise<Result>): Promise<Result> {
  try {
    return await act();
  } catch (cause) {
    const { code, message, syscall } = cause as NodeJS.ErrnoException;
    if (cause instanceof MigrationError || syscall === undefined) throw cause;
    throw new SystemError(`SYSTEM_${code}`, `${path}: ${message}`, { cause });
  }
}
