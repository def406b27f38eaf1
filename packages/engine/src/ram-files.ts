/**
 * RAM files: a destination guest that is a set of files.
 *
 * A named block goes into its file; a file that is not there yet is written under
 * another name and renamed at the very end, so an incomplete one is never found
 * under its own. A file that exists already, such as one a VM has mapped, is
 * written in place, since its mappings would not follow a rename; if the migration
 * fails it is emptied to zeros. Blocks that nobody named are kept in memory and
 * handed to `save` with the devices.
 *
 * Files may be `shared` with the source, which then leaves their blocks out of its stream: those are
 * looked at, and never written or cleared.
 *
 * Owns the descriptors.
 */
import { closeSync, fstatSync, fsync, ftruncateSync, openSync, rmSync } from "node:fs";
import { promisify } from "node:util";
import type { RamBlock } from "@multifd/memory";
import { closeDescriptor, createMemfd, hugePageBytes, punchFile, seekData } from "@multifd/native";
import { ConfigError, ProtocolError, SystemError } from "@multifd/protocol";
import type { DestinationGuest, DeviceName, DevicePart, RamPlacement } from "./guest.js";
import { nameWholeFile, partialPath, syncFolder } from "./partial-file.js";

/** A block that no file was named for. */
export type KeptBlock = { readonly block: RamBlock; readonly descriptor: number };

/** What goes with the devices when the migration is complete. */
export type SavedGuest = {
  readonly devices: DevicePart;
  /** Every block, in the stream's order. */
  readonly blocks: readonly RamBlock[];
  readonly kept: readonly KeptBlock[];
};

type OpenFile = {
  readonly path: string;
  readonly descriptor: number;
  /** A whole one bears its own name already, while the migration may still fail. */
  state: "partial" | "whole" | "in-place" | "shared";
};

export class RamFiles implements DestinationGuest {
  readonly #paths: ReadonlyMap<string, string>;
  readonly #save: ((saved: SavedGuest) => Promise<void>) | null;
  readonly #use: "received" | "shared";
  readonly #files: OpenFile[] = [];
  readonly #kept: KeptBlock[] = [];
  #blocks: readonly RamBlock[] = [];
  #devices: DevicePart | null = null;
  /** From here on files hold pages, and a failure must clear them. */
  #placed = false;

  /**
   * @param paths  File by RAM block name.
   * @param save   Stores the device part and the blocks not named; null when nobody wants them.
   * @param use    `shared`: the source has mapped the very files, and no page of theirs comes.
   */
  constructor(
    paths: ReadonlyMap<string, string>,
    save: ((saved: SavedGuest) => Promise<void>) | null,
    use: "received" | "shared" = "received",
  ) {
    this.#paths = paths;
    this.#use = use;
    this.#save = save;
  }

  /** @throws {ConfigError} RAM_BLOCK_UNKNOWN, RAM_SIZE_MISMATCH; {SystemError} what the file system refuses. */
  async placeRam(blocks: readonly RamBlock[]): Promise<readonly RamPlacement[]> {
    const names = new Set(blocks.map((block) => block.name));
    for (const name of this.#paths.keys()) {
      if (!names.has(name)) {
        const known = blocks.map((block) => `"${block.name}" (${block.lengthBytes} bytes)`).join(", ");
        throw new ConfigError("RAM_BLOCK_UNKNOWN", `the source has no RAM block "${name}"; it has ${known}`);
      }
    }
    this.#blocks = blocks;
    const placements = blocks.map((block) => {
      const path = this.#paths.get(block.name);
      if (path === undefined) return this.#keep(block);
      return this.#use === "shared" ? this.#openShared(block, path) : this.#open(block, path);
    });
    this.#placed = true;
    return placements;
  }

  #keep(block: RamBlock): RamPlacement {
    const descriptor = createMemfd(`multifd:${block.name}`.slice(0, 200), block.lengthBytes);
    this.#kept.push({ block, descriptor });
    return { block, descriptor, through: "file", startsZeroed: true };
  }

  #open(block: RamBlock, path: string): RamPlacement {
    const existing = openExisting(path);
    if (existing !== null) {
      this.#files.push({ path, descriptor: existing, state: "in-place" });
      return placeInExisting(block, path, existing);
    }
    const partial = partialPath(path);
    const descriptor = withSystemError(partial, () => openSync(partial, "w+", 0o600));
    this.#files.push({ path, descriptor, state: "partial" });
    return placeInNew(block, partial, descriptor);
  }

  #openShared(block: RamBlock, path: string): RamPlacement {
    const descriptor = withSystemError(path, () => openSync(path, "r"));
    this.#files.push({ path, descriptor, state: "shared" });
    const { startsZeroed } = placeInExisting(block, path, descriptor);
    return { block, descriptor, through: "nowhere", startsZeroed };
  }

  async loadDeviceState({ idstr, instanceId }: DeviceName): Promise<void> {
    throw new ProtocolError(
      "DEVICE_STATE_UNEXPECTED",
      `the source sends the state of device "${idstr}" instance ${instanceId} down the channels, and a set of files has nowhere to load it; switch that off at the source or take the migration into a guest`,
    );
  }

  async loadDevices(devices: DevicePart): Promise<void> {
    this.#devices = devices;
  }

  async commit(): Promise<void> {
    // The source gives its guest up for our word: what we vouch for must be on its medium.
    await Promise.all(
      this.#files.map(async ({ path, descriptor, state }) => {
        if (state === "shared") return;
        await promisify(fsync)(descriptor).catch((error: unknown) => {
          throw systemError(path, error);
        });
      }),
    );
    for (const file of this.#files) {
      if (file.state !== "partial") continue;
      try {
        await nameWholeFile(file.path);
        file.state = "whole";
        await syncFolder(file.path);
      } catch (error) {
        throw systemError(file.path, error);
      }
    }
    if (this.#save !== null && this.#devices !== null) {
      await this.#save({ devices: this.#devices, blocks: this.#blocks, kept: this.#kept });
    }
    this.#close();
  }

  async abandon(): Promise<void> {
    for (const { path, descriptor, state } of this.#files) {
      if (state === "shared") continue;
      if (state !== "in-place") {
        rmSync(state === "whole" ? path : partialPath(path), { force: true });
        continue;
      }
      if (!this.#placed) continue; // refused before a page came: what the file holds is somebody's
      try {
        punchFile(descriptor, 0, fstatSync(descriptor).size);
      } catch {
        ftruncateSync(descriptor, 0); // no holes on this file system: better empty than half a guest
      }
    }
    this.#close();
  }

  #close(): void {
    for (const { descriptor } of this.#files.splice(0)) closeSync(descriptor);
    for (const { descriptor } of this.#kept.splice(0)) closeDescriptor(descriptor);
  }
}

function openExisting(path: string): number | null {
  try {
    return openSync(path, "r+");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return null;
    throw systemError(path, error);
  }
}

function placeInExisting(block: RamBlock, path: string, descriptor: number): RamPlacement {
  const { size } = fstatSync(descriptor);
  if (size === 0) return placeInNew(block, path, descriptor);
  const huge = hugePageBytes(descriptor);
  const due = huge === 0 ? block.lengthBytes : Math.ceil(block.lengthBytes / huge) * huge;
  if (size !== due) {
    throw new ConfigError(
      "RAM_SIZE_MISMATCH",
      `${path} has ${size} bytes, RAM block "${block.name}" has ${block.lengthBytes}; start both sides with the same memory size`,
    );
  }
  // A file on hugetlbfs cannot be asked for holes: it counts as written.
  const startsZeroed = huge === 0 && seekData(descriptor, 0) === null;
  return { block, descriptor, through: huge === 0 ? "file" : "mapping", startsZeroed };
}

function placeInNew(block: RamBlock, path: string, descriptor: number): RamPlacement {
  const huge = hugePageBytes(descriptor);
  const lengthBytes = huge === 0 ? block.lengthBytes : Math.ceil(block.lengthBytes / huge) * huge;
  withSystemError(path, () => ftruncateSync(descriptor, lengthBytes));
  return { block, descriptor, through: huge === 0 ? "file" : "mapping", startsZeroed: true };
}

function systemError(path: string, error: unknown): SystemError {
  const { code, message } = error as NodeJS.ErrnoException;
  return new SystemError(`SYSTEM_${code ?? "ERROR"}`, `${path}: ${message}`, { cause: error });
}

function withSystemError<T>(path: string, action: () => T): T {
  try {
    return action();
  } catch (error) {
    throw systemError(path, error);
  }
}
