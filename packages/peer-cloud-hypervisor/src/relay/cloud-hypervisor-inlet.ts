/**
 * Cloud Hypervisor inlet: takes a guest in, in Cloud Hypervisor's protocol, and hands it to an outlet as it comes.
 *
 * Each command is answered with what the outlet's destination says: Config when it has agreed, Memory when
 * the RAM is on its way, Complete when it has the guest. So a source measures the slowest link of all.
 */
import type { RamPlacement } from "@multifd/engine";
import { closeDescriptor } from "@multifd/native";
import { ConfigError, type MemoryRangeTable } from "@multifd/protocol";
import type { AdoptedRam, CloudHypervisorDestinationGuest } from "../destination-job.js";
import type { MemoryMap } from "../memory-map.js";
import type { HandOver } from "../source-job.js";
import type { Outlet } from "./outlet.js";
import { PassingFiles } from "./passing-files.js";
import { PassingRam } from "./passing-ram.js";

export class CloudHypervisorInlet implements CloudHypervisorDestinationGuest {
  readonly #outlet: Outlet;
  #files: PassingFiles | null = null;
  #passing: PassingRam | null = null;
  #map: MemoryMap | null = null;

  constructor(outlet: Outlet) {
    this.#outlet = outlet;
  }

  /** The source is alive, whatever it is doing. */
  live(): void {
    this.#passing?.live();
  }

  async loadConfig(config: Uint8Array, map: MemoryMap): Promise<void> {
    const blocks = map.blocks.map(({ block }) => block);
    this.#map = map;
    this.#files = new PassingFiles(blocks);
    this.#passing = new PassingRam(blocks);
    await this.#outlet.begin({ config, map, ram: this.#files.ram, passing: this.#passing });
  }

  async placeRam(): Promise<readonly RamPlacement[]> {
    return this.#files!.placements;
  }

  async adoptRam(ram: readonly AdoptedRam[]): Promise<void> {
    for (const { descriptor } of ram) closeDescriptor(descriptor);
    throw new ConfigError(
      "RELAY_DESCRIPTORS",
      "the source hands its RAM over as descriptors, which go no further than this machine; let it send RAM over the stream (without local=on)",
    );
  }

  async partIn(table: MemoryRangeTable): Promise<void> {
    for (const pieces of this.#map!.pieces(table))
      for (let i = 0; i < pieces.length; i += 3) this.#passing!.mark(pieces[i]!, pieces[i + 1]!, pieces[i + 2]!);
    await this.#passing!.gone();
  }

  memoryIn(): Promise<void> {
    return this.#passing!.left();
  }

  loadState(state: Uint8Array): Promise<void> {
    return this.#outlet.load(state);
  }

  commit(how: HandOver): Promise<void> {
    return this.#outlet.commit(how);
  }

  async abandon(): Promise<void> {
    await this.#outlet.cancel();
    this.close();
  }

  /** Frees the RAM; nobody may be sending it any more. Idempotent. */
  close(): void {
    this.#files?.close();
    this.#files = null;
  }
}
