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
import { harvestDirty, probeTracking } from "@multifd/native";
import { ConfigError, SystemError } from "@multifd/protocol";

const KERNEL_FEATURE = {
  userfaultfd: "userfaultfd(2); allow it (vm.unprivileged_userfaultfd, CAP_SYS_PTRACE) or run as root",
  "write-protect-async": "userfaultfd's UFFD_FEATURE_WP_ASYNC; it came with Linux 6.7",
  PAGEMAP_SCAN: "the PAGEMAP_SCAN ioctl; it came with Linux 6.7",
} as const;

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

  /** @throws {ConfigError} NO_DIRTY_TRACKING, naming the kernel feature; {SystemError} when the process may not be looked at. */
  async start(blocks: readonly RamBlock[]): Promise<void> {
    const probe = probeTracking();
    if (!probe.ok) {
      throw new ConfigError(
        "NO_DIRTY_TRACKING",
        `this kernel cannot track another process's writes (${probe.errno}): it lacks ${KERNEL_FEATURE[probe.missing]}`,
      );
    }
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
