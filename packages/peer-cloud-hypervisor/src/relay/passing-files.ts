/** Passing files: where a relay holds a guest's RAM, in memory, as far as the guest has used it. */
import type { RamPlacement, RamSource } from "@multifd/engine";
import type { RamBlock } from "@multifd/memory";
import { closeDescriptor, createMemfd } from "@multifd/native";

export class PassingFiles {
  readonly ram: readonly RamSource[];

  constructor(blocks: readonly RamBlock[]) {
    const ram: RamSource[] = [];
    this.ram = ram;
    try {
      for (const block of blocks)
        ram.push({ block, descriptor: createMemfd("multifd:passing", block.lengthBytes), offsetBytes: 0 });
    } catch (error) {
      this.close();
      throw error;
    }
  }

  get placements(): readonly RamPlacement[] {
    return this.ram.map(({ block, descriptor }) => ({ block, descriptor, through: "file", startsZeroed: true }));
  }

  close(): void {
    for (const { descriptor } of this.ram) closeDescriptor(descriptor);
    (this.ram as RamSource[]).length = 0;
  }
}
