/**
 * Userfaultfd tracker: dirty pages of another process, harvested from outside.
 *
 * The guest process registers its own mapping once for asynchronous write
 * protection; from then on PAGEMAP_SCAN on its /proc/PID/pagemap reports what was
 * written and protects it again in one step, without stopping the guest.
 *
 * A page comes back as written until it is protected, so `start` harvests
 * once and forgets the answer: everything is sent in the first round anyway.
 * Source: Linux 6.7, Documentation/admin-guide/mm/pagemap.rst, PAGEMAP_SCAN.
 */
import { closeSync, openSync } from "node:fs";
import { DirtyBitmap, type DirtyTracker, type RamBlock } from "@multifd/memory";
import { harvestDirty } from "@multifd/native";
import { SystemError } from "@multifd/protocol";
import { requireTracking } from "./kernel-tracking.js";

export class UserfaultfdTracker implements DirtyTracker {
  readonly name = "userfaultfd";
  readonly #pid: number;
  readonly #addresses: readonly number[];
  #pagemap: number | null = null;
  #blocks: readonly RamBlock[] = [];

  /**
   * @param pid        The guest process, which has registered its RAM.
   * @param addresses  Where each RAM block begins in that process.
   */
  constructor(pid: number, addresses: readonly number[]) {
    this.#pid = pid;
    this.#addresses = addresses;
  }

  /** @throws {SystemError} TRACKING_MISSING, naming the kernel feature, or what keeps us from looking at the process. */
  async start(blocks: readonly RamBlock[]): Promise<void> {
    requireTracking();
    const path = `/proc/${this.#pid}/pagemap`;
    try {
      this.#pagemap = openSync(path, "r");
    } catch (cause) {
      const { code, message } = cause as NodeJS.ErrnoException;
      throw new SystemError(`SYSTEM_${code ?? "ERROR"}`, `dirty tracking of process ${this.#pid}: ${message}`, {
        cause,
      });
    }
    this.#blocks = blocks;
    for (const [index, block] of blocks.entries()) this.harvest(index, new DirtyBitmap(block.pageCount));
  }

  harvest(index: number, dirty: DirtyBitmap): void {
    const block = this.#blocks[index]!;
    harvestDirty(this.#pagemap!, this.#addresses[index]!, block.lengthBytes, block.pageBytes, dirty.bytes);
  }

  async stop(): Promise<void> {
    if (this.#pagemap !== null) closeSync(this.#pagemap);
    this.#pagemap = null;
  }
}
