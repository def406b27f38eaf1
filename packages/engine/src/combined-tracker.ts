/**
 * Combined tracker: several writers of one RAM, each with a tracker of its own.
 *
 * Processors and devices in other processes write the same pages and are seen by
 * different means: the kernel's write protection, a vhost-user log. A page that any of them reports is dirty.
 */
import type { DirtyBitmap, DirtyTracker, RamBlock } from "@multifd/memory";

export class CombinedTracker implements DirtyTracker {
  readonly name: string;
  readonly #trackers: readonly DirtyTracker[];

  /** @param trackers  At least one; owned from here on. */
  constructor(trackers: readonly DirtyTracker[]) {
    this.#trackers = trackers;
    this.name = trackers.map((tracker) => tracker.name).join(" and ");
  }

  async start(blocks: readonly RamBlock[]): Promise<void> {
    for (const tracker of this.#trackers) await tracker.start(blocks);
  }

  harvest(block: number, dirty: DirtyBitmap): void {
    for (const tracker of this.#trackers) tracker.harvest(block, dirty);
  }

  /** Stops every one, also where one fails; the first failure is told. */
  async stop(): Promise<void> {
    const ended = await Promise.allSettled(this.#trackers.map((tracker) => tracker.stop()));
    for (const end of ended) if (end.status === "rejected") throw end.reason;
  }
}
