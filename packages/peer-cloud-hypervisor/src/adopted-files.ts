/**
 * Adopted files: RAM that came as descriptors, for a guest that is only kept.
 *
 * Descriptors are the source's own memory, in which its guest may run until the last command: they are read
 * no sooner than that, into the very places that a stream would have filled.
 */
import type { RamPlacement } from "@multifd/engine";
import { closeDescriptor } from "@multifd/native";
import type { AdoptedRam } from "./destination-job.js";
import { copyData } from "./snapshot/copy-data.js";

export class AdoptedFiles {
  #ram: readonly AdoptedRam[] = [];
  #placements: readonly RamPlacement[] = [];

  /** @param placements  As the blocks of `ram`; all zeros. The descriptors are ours from here on. */
  take(ram: readonly AdoptedRam[], placements: readonly RamPlacement[]): void {
    this.#ram = ram;
    this.#placements = placements;
  }

  /** Reads what the source has left there. */
  async copy(): Promise<void> {
    for (const [index, { descriptor, offsetBytes, block }] of this.#ram.entries()) {
      const { descriptor: to, fileOffsetBytes = 0 } = this.#placements[index]!;
      await copyData({ descriptor, offsetBytes }, { descriptor: to, offsetBytes: fileOffsetBytes }, block.lengthBytes);
    }
    this.close();
  }

  close(): void {
    for (const { descriptor } of this.#ram) closeDescriptor(descriptor);
    this.#ram = [];
  }
}
