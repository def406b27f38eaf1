/**
 * Stored files: a guest in files of its own, one per RAM block, beside the payloads of Config and State.
 *
 * As a destination the RAM files may be those that a VM has mapped; the two payloads are written
 * when the source gives the guest up, before it hears that it has. As a source nobody writes them.
 */
import { type FileHandle, open, readFile, rename, rm, stat } from "node:fs/promises";
import { RamFiles, type RamPlacement, type RamSource } from "@multifd/engine";
import { describeRamBlock, type RamBlock } from "@multifd/memory";
import { CONFIG_BYTES_MAX, ConfigError, ProtocolError, STATE_BYTES_MAX } from "@multifd/protocol";
import { AdoptedFiles } from "./adopted-files.js";
import type { AdoptedRam, CloudHypervisorDestinationGuest } from "./destination-job.js";
import { type MemoryMap, PAGE_BYTES } from "./memory-map.js";
import { onFile } from "./snapshot/file-action.js";
import type { CloudHypervisorSource } from "./source-job.js";

export type StoredPaths = {
  /** File by name of RAM block: the zone's, with `@0x…` behind it where a zone has several. */
  readonly ram: ReadonlyMap<string, string>;
  readonly config: string;
  readonly state: string;
};

export class StoredFiles implements CloudHypervisorDestinationGuest {
  readonly #paths: StoredPaths;
  readonly #ram: RamFiles;
  readonly #adopted = new AdoptedFiles();
  readonly #written: string[] = [];
  #config = new Uint8Array(0);
  #state = new Uint8Array(0);

  constructor(paths: StoredPaths) {
    this.#paths = paths;
    this.#ram = new RamFiles(paths.ram, null);
  }

  /** @throws {ConfigError} RAM_BLOCK_UNNAMED. */
  async loadConfig(config: Uint8Array<ArrayBuffer>, map: MemoryMap): Promise<void> {
    const unnamed = map.blocks.find(({ block }) => !this.#paths.ram.has(block.name));
    if (unnamed !== undefined)
      throw new ConfigError(
        "RAM_BLOCK_UNNAMED",
        `the source has RAM block "${unnamed.block.name}" of ${unnamed.block.lengthBytes} bytes, and no file is named for it; add --ram ${unnamed.block.name}=PATH`,
      );
    this.#config = config;
  }

  placeRam(blocks: readonly RamBlock[]): Promise<readonly RamPlacement[]> {
    return this.#ram.placeRam(blocks);
  }

  async adoptRam(ram: readonly AdoptedRam[]): Promise<void> {
    this.#adopted.take(ram, []);
    const placements = await this.placeRam(ram.map(({ block }) => block));
    const used = placements.find(({ startsZeroed, through }) => !startsZeroed || through !== "file");
    if (used !== undefined)
      throw new ConfigError(
        "RAM_NOT_FRESH",
        `the file of RAM block "${used.block.name}" holds data, and RAM that comes as descriptors is only copied into fresh files; name a new one`,
      );
    this.#adopted.take(ram, placements);
  }

  async loadState(state: Uint8Array<ArrayBuffer>): Promise<void> {
    this.#state = state;
  }

  async commit(): Promise<void> {
    await this.#adopted.copy();
    await this.#write(this.#paths.config, this.#config);
    await this.#write(this.#paths.state, this.#state);
    await this.#ram.commit();
  }

  async abandon(): Promise<void> {
    this.#adopted.close();
    for (const path of this.#written) await rm(path, { force: true }).catch(() => {});
    await this.#ram.abandon();
  }

  /** Under its name it is whole. */
  async #write(path: string, bytes: Uint8Array): Promise<void> {
    const partial = `${path}.partial`;
    this.#written.push(partial);
    await onFile(path, async () => {
      const file = await open(partial, "w", 0o600);
      try {
        await file.writeFile(bytes);
        await file.sync();
      } finally {
        await file.close();
      }
      await rename(partial, path);
    });
    this.#written.push(path);
  }
}

/**
 * A guest in such files as a source.
 *
 * @param use  `share`: the destination is to run in the very files, which are handed to it then.
 * @throws {ConfigError} RAM_SIZE; {ProtocolError} FILE_SIZE; {SystemError}.
 */
export async function openStoredFiles(
  paths: StoredPaths,
  use: "read" | "share",
): Promise<{ readonly source: CloudHypervisorSource; readonly close: () => Promise<void> }> {
  const config = await readBounded(paths.config, CONFIG_BYTES_MAX);
  const state = await readBounded(paths.state, STATE_BYTES_MAX);
  const files: FileHandle[] = [];
  const close = async () => {
    for (const file of files.splice(0)) await file.close();
  };
  try {
    const ram: RamSource[] = [];
    for (const [name, path] of paths.ram) {
      const file = await onFile(path, () => open(path, use === "share" ? "r+" : "r"));
      files.push(file);
      const { size } = await file.stat();
      const block = describeRamBlock(name, size, PAGE_BYTES);
      if (block === null)
        throw new ConfigError("RAM_SIZE", `RAM block "${name}": ${path} has ${size} bytes, no whole number of pages`);
      ram.push({ block, descriptor: file.fd, offsetBytes: 0 });
    }
    const guest = { ram, tracker: null, devices: [], pause: async () => {}, resume: async () => {} };
    return { source: { guest, config, snapshot: async () => state }, close };
  } catch (error) {
    await close();
    throw error;
  }
}

async function readBounded(path: string, bytesMax: number): Promise<Uint8Array> {
  return onFile(path, async () => {
    const { size } = await stat(path);
    if (size <= bytesMax) return await readFile(path);
    throw new ProtocolError("FILE_SIZE", `${path} has ${size} bytes, at most ${bytesMax} are taken`);
  });
}
