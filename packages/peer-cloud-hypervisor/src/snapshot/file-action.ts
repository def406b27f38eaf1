/** File action: what the reader and the writer of snapshot directories say when the file system refuses. */
import { MigrationError, SystemError } from "@multifd/protocol";

/** Runs an action on a file. @throws {SystemError} for what the file system answers, with the path. */
export async function onFile<T>(path: string, action: () => Promise<T>): Promise<T> {
  try {
    return await action();
  } catch (cause) {
    const { code, message } = cause as NodeJS.ErrnoException;
    if (code === undefined || cause instanceof MigrationError) throw cause;
    throw new SystemError(`SYSTEM_${code}`, `${path}: ${message}`, { cause });
  }
}
