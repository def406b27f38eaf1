/**
 * Output file: how both writers of snapshots write theirs, name it when it is whole, and say why it cannot be written.
 */
import type { FileHandle } from "node:fs/promises";
import type { DeviceName } from "@multifd/engine";
import { ProtocolError, SystemError } from "@multifd/protocol";

/** Runs an action on a file. @throws {SystemError} for what the file system answers, with the path. */
export async function withSystemError<T>(path: string, action: () => Promise<T>): Promise<T> {
  try {
    return await action();
  } catch (cause) {
    const { code, message } = cause as NodeJS.ErrnoException;
    if (code === undefined || cause instanceof SystemError) throw cause;
    throw new SystemError(`SYSTEM_${code}`, `${path}: ${message}`, { cause });
  }
}

/**
 * Writes all of it. A disk that is nearly full takes a part without a word; only the next write is told.
 *
 * @throws {Error} of the file system, for `withSystemError`.
 */
export async function writeAll(file: FileHandle, bytes: Uint8Array, at: number): Promise<void> {
  for (let written = 0; written < bytes.length; ) {
    const { bytesWritten } = await file.write(bytes, written, bytes.length - written, at + written);
    written += bytesWritten;
  }
}

/** A device's state that came down a channel has no place in a snapshot. */
export function refuseDeviceState({ idstr }: DeviceName): never {
  throw new ProtocolError(
    "DEVICE_STATE_UNEXPECTED",
    `device "${idstr}" sent its state down a channel, and a snapshot cannot keep it; detach the device, or set its x-migration-multifd-transfer to off, on the source`,
  );
}
