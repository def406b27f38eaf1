/**
 * Output file: how both writers of snapshots write theirs, name it when it is whole, and say why it cannot be written.
 *
 * Owns the descriptor.
 */
import { type FileHandle, open, rm } from "node:fs/promises";
import { type DeviceName, nameWholeFile, partialPath, syncFolder } from "@multifd/engine";
import { ProtocolError, SystemError } from "@multifd/protocol";

export class OutputFile {
  readonly #path: string;
  #file: FileHandle | null = null;
  #isNamed = false;

  constructor(path: string) {
    this.#path = path;
  }

  /**
   * Creates it under another name. @param begin  Writes what is known beforehand.
   *
   * @throws {SystemError} what the file system refuses.
   */
  async create(begin: (file: FileHandle) => Promise<void>): Promise<FileHandle> {
    const partial = partialPath(this.#path);
    return withSystemError(partial, async () => {
      const file = await open(partial, "w+", 0o600);
      this.#file = file;
      await begin(file);
      return file;
    });
  }

  /**
   * Writes the rest; only what is on its medium gets its name. @param end  Writes it.
   *
   * @throws {SystemError} what the file system refuses.
   */
  async complete(end: (file: FileHandle) => Promise<void>): Promise<void> {
    const file = this.#file!;
    await withSystemError(partialPath(this.#path), async () => {
      await end(file);
      await file.sync();
      await nameWholeFile(this.#path);
      this.#isNamed = true;
      await syncFolder(this.#path);
    });
    this.#file = null;
    await file.close();
  }

  /** Removes it, under whichever name it has. */
  async abandon(): Promise<void> {
    await this.#file?.close();
    this.#file = null;
    await rm(this.#isNamed ? this.#path : partialPath(this.#path), { force: true });
  }
}

/** Runs an action on a file. @throws {SystemError} for what the file system answers, with the path. */
async function withSystemError<T>(path: string, action: () => Promise<T>): Promise<T> {
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
 * @throws {Error} of the file system, for `OutputFile`.
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
