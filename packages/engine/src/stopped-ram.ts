/**
 * Stopped RAM: a source guest that is a set of files nobody writes any more.
 *
 * One round moves it; there is nothing to pause and nothing to resume. A file
 * that is cut while it is read would end this process with SIGBUS: files of a
 * running VM belong to a live guest with a tracker instead.
 *
 * Owns the descriptors it opened.
 */
import { closeSync, fstatSync, openSync } from "node:fs";
import { describeRamBlock } from "@multifd/memory";
import { ConfigError, SystemError } from "@multifd/protocol";
import type { RamSource, SourceGuest } from "./guest.js";

/** What of a guest's RAM has no file of its own, and the names of all its blocks in the order they were listed. */
export type StoppedRest = { readonly kept: readonly RamSource[]; readonly blockNames: readonly string[] };

export class StoppedRam implements SourceGuest {
  readonly ram: readonly RamSource[];
  readonly tracker = null;
  readonly devices = [];

  private constructor(ram: readonly RamSource[]) {
    this.ram = ram;
  }

  /**
   * Opens one file per RAM block, each as long as its block.
   *
   * @param rest   Blocks that are open already, closed with the others; and the order that all go in, where it matters.
   * @param files  `shared`: the destination has them mapped, one behind the other, and no page of them is sent.
   * @throws {ConfigError} RAM_SIZE, where a file is no whole number of pages; {SystemError} where it cannot be opened.
   */
  static open(
    paths: ReadonlyMap<string, string>,
    pageBytes: number,
    rest: StoppedRest,
    files: "sent" | "shared" = "sent",
  ): StoppedRam {
    const ram: RamSource[] = [...rest.kept];
    const guest = new StoppedRam(ram);
    try {
      let sharedAt = 0;
      for (const [name, path] of paths) {
        const opened = openRam(name, path, pageBytes);
        ram.push(files === "shared" ? { ...opened, sharedAt } : opened);
        sharedAt += opened.block.lengthBytes;
      }
      const place = ({ block }: RamSource) => rest.blockNames.indexOf(block.name);
      ram.sort((a, b) => place(a) - place(b));
      return guest;
    } catch (error) {
      guest.close();
      throw error;
    }
  }

  async pause(): Promise<void> {}

  async resume(): Promise<void> {}

  close(): void {
    for (const { descriptor } of this.ram) closeSync(descriptor);
  }
}

function openRam(name: string, path: string, pageBytes: number): RamSource {
  let descriptor: number;
  try {
    descriptor = openSync(path, "r");
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    throw new SystemError(`SYSTEM_${code ?? "ERROR"}`, `RAM block "${name}": ${message}`, { cause: error });
  }
  const { size } = fstatSync(descriptor);
  const block = describeRamBlock(name, size, pageBytes);
  if (block !== null) return { block, descriptor, offsetBytes: 0 };
  closeSync(descriptor);
  throw new ConfigError(
    "RAM_SIZE",
    `RAM block "${name}": ${path} has ${size} bytes, a whole number of ${pageBytes}-byte pages was due`,
  );
}
