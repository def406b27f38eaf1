/** Output file: what both writers of snapshots say when it cannot be written. */
import type { DeviceState } from "@multifd/engine";
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

/** A device's state that came down a channel has no place in a snapshot. */
export function refuseDeviceState({ idstr }: DeviceState): never {
  throw new ProtocolError(
    "DEVICE_STATE_UNEXPECTED",
    `device "${idstr}" sent its state down a channel, and a snapshot cannot keep it; detach the device, or set its x-migration-multifd-transfer to off, on the source`,
  );
}
