/**
 * Userfaultfd tracker: dirty pages of another process, harvested from outside.
 *
 * The guest process's mappings are registered once for asynchronous write
 * protection, by itself or by `attachTracking`; from then on PAGEMAP_SCAN on its
 * /proc/PID/pagemap reports what was written and protects it again in one step,
 * without stopping the guest. A block may lie there in several pieces, and a piece twice.
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
import type { MappedRun } from "./process-ram.js";

export class UserfaultfdTracker implements DirtyTracker {
  readonly name = "userfaultfd";
  readonly #pid: number;
  readonly #runs: readonly (readonly MappedRun[])[];
  readonly #detach: () => Promise<void>;
  #pagemap: number | null = null;
  #blocks: readonly RamBlock[] = [];

  /**
   * @param pid     The guest process, whose RAM is registered.
   * @param runs    Where each RAM block lies in that process.
   * @param detach  Called by each `stop`: ends what was begun from outside, if anything was.
   */
  constructor(pid: number, runs: readonly (readonly MappedRun[])[], detach: () => Promise<void> = async () => {}) {
    this.#pid = pid;
    this.#runs = runs;
    this.#detach = detach;
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
    for (const run of this.#runs[index]!) this.#harvestRun(run, this.#blocks[index]!, dirty);
  }

  #harvestRun({ address, lengthBytes, blockOffsetBytes }: MappedRun, block: RamBlock, dirty: DirtyBitmap): void {
    const first = blockOffsetBytes / block.pageBytes;
    const harvest = (bitmap: Uint8Array) => harvestDirty(this.#pagemap!, address, lengthBytes, block.pageBytes, bitmap);
    if (first % 8 === 0) {
      harvest(dirty.bytes.subarray(first / 8));
      return;
    }
    // The run begins within a byte: harvested by itself, then moved to its place.
    const piece = new DirtyBitmap(lengthBytes / block.pageBytes);
    harvest(piece.bytes);
    for (let page = 0; page < piece.pageCount; page++) if (piece.has(page)) dirty.set(first + page);
  }

  async stop(): Promise<void> {
    if (this.#pagemap !== null) closeSync(this.#pagemap);
    this.#pagemap = null;
    await this.#detach();
  }
}
