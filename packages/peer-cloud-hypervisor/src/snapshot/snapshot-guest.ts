/**
 * Snapshot guest: a destination that becomes a snapshot directory.
 *
 * What State says of RAM is judged when it comes, so that a guest that cannot be kept is refused
 * while the source still has it; the directory gets its name only when the source gives the guest up.
 * Cloud Hypervisor restores a snapshot paused, whichever way the source let go of it.
 */
import type { RamPlacement } from "@multifd/engine";
import type { RamBlock } from "@multifd/memory";
import { AdoptedFiles } from "../adopted-files.js";
import type { AdoptedRam, CloudHypervisorDestinationGuest } from "../destination-job.js";
import type { MemoryMap } from "../memory-map.js";
import { SnapshotWriter } from "./snapshot-writer.js";

export class SnapshotGuest implements CloudHypervisorDestinationGuest {
  readonly #writer: SnapshotWriter;
  readonly #adopted = new AdoptedFiles();
  #map: MemoryMap | null = null;
  #config = new Uint8Array(0);
  #state = new Uint8Array(0);

  private constructor(writer: SnapshotWriter) {
    this.#writer = writer;
  }

  /** @throws {ConfigError} OUT_EXISTS; {SystemError} where the directory cannot be made. */
  static async create(path: string): Promise<SnapshotGuest> {
    return new SnapshotGuest(await SnapshotWriter.create(path));
  }

  async loadConfig(config: Uint8Array<ArrayBuffer>, map: MemoryMap): Promise<void> {
    this.#config = config;
    this.#map = map;
  }

  async placeRam(blocks: readonly RamBlock[]): Promise<readonly RamPlacement[]> {
    const ranges = this.#map!.blocks.map(({ gpa, block }) => ({
      gpa: BigInt(gpa),
      lengthBytes: BigInt(block.lengthBytes),
    }));
    const { descriptor, offsets } = await this.#writer.placeRam(ranges);
    return blocks.map((block, index) => ({
      block,
      descriptor,
      through: "file",
      startsZeroed: true,
      fileOffsetBytes: offsets[index]!,
    }));
  }

  async adoptRam(ram: readonly AdoptedRam[]): Promise<void> {
    this.#adopted.take(ram, []);
    this.#adopted.take(ram, await this.placeRam(ram.map(({ block }) => block)));
  }

  async loadState(state: Uint8Array<ArrayBuffer>): Promise<void> {
    this.#writer.orderOf(state);
    this.#state = state;
  }

  async commit(): Promise<void> {
    await this.#adopted.copy();
    await this.#writer.finish(this.#config, this.#state);
  }

  async abandon(): Promise<void> {
    this.#adopted.close();
    await this.#writer.discard();
  }
}
