/**
 * Dirty pages: what of a guest's RAM the next round has to send.
 *
 * One dirty bitmap per RAM block, filled as a whole once and from the guest's
 * tracker ever after; sending a round empties them. A block that the destination
 * shares has a bitmap that stays empty.
 *
 * Runs on the coordinator thread; owns the bitmaps, not the tracker.
 */
import { DirtyBitmap } from "@multifd/memory";
import type { FirstFailure } from "./first-failure.js";
import type { RamSource, SourceGuest } from "./guest.js";

export class DirtyPages {
  /** One per RAM block, in the order of `ram`. */
  readonly bitmaps: readonly DirtyBitmap[];
  readonly #guest: Pick<SourceGuest, "tracker" | "holdTransfers">;
  readonly #ram: readonly RamSource[];
  readonly #failure: FirstFailure;

  /** @param ram  The guest's, in the order in which its tracker is to number the blocks. */
  constructor(guest: Pick<SourceGuest, "tracker" | "holdTransfers">, ram: readonly RamSource[], failure: FirstFailure) {
    this.#guest = guest;
    this.#ram = ram;
    this.#failure = failure;
    this.bitmaps = ram.map(({ block }) => new DirtyBitmap(block.pageCount));
  }

  get count(): number {
    return this.bitmaps.reduce((sum, bitmap) => sum + bitmap.count(), 0);
  }

  /** All of RAM is to be sent. */
  fill(): void {
    for (const [block, bitmap] of this.bitmaps.entries()) if (!this.#isShared(block)) bitmap.fill();
  }

  /** What they held is being sent. */
  clear(): void {
    for (const bitmap of this.bitmaps) bitmap.clear();
  }

  /** From the moment this resolves every write is seen. */
  async track(): Promise<void> {
    const blocks = this.#ram.map(({ block }) => block);
    await this.#hold(async () => this.#guest.tracker?.start(blocks));
  }

  /** Adds what the guest has written since the last harvest; it may go on writing. */
  async harvestRunning(): Promise<void> {
    await this.#hold(async () => this.harvest());
  }

  /** The same for a guest that stands still, or of which nobody holds transfers. */
  harvest(): void {
    for (const [block, bitmap] of this.bitmaps.entries())
      if (!this.#isShared(block)) this.#guest.tracker?.harvest(block, bitmap);
  }

  #isShared(block: number): boolean {
    return this.#ram[block]!.sharedAt !== undefined;
  }

  /** Not cut short by a failure elsewhere: whoever holds transfers has to let them go. */
  async #hold(act: () => Promise<void>): Promise<void> {
    const guest = this.#guest;
    await (guest.holdTransfers === undefined ? this.#failure.race(act()) : guest.holdTransfers(act));
  }
}
