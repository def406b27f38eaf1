/**
 * Log tracker: the dirty pages of all back-ends of one guest, as the engine wants them.
 *
 * One log serves every back-end, as in QEMU. It tells of their writes alone: what
 * the guest's own processors write, another tracker must tell.
 *
 * A back-end may leave its last writes into a used ring unlogged (libvhost-user's
 * event index is one), so the used rings of a suspended device count as written whole.
 * The harvest that counts must therefore come after every device is suspended.
 *
 * Runs on the coordinator thread; owns the log, not the devices.
 */
import type { DirtyBitmap, DirtyTracker, RamBlock } from "@multifd/memory";
import { ConfigError } from "@multifd/protocol";
import { type AttachedDevice, usedRingBytes } from "./attached-device.js";
import { DirtyLog, LOG_PAGE_BYTES } from "./dirty-log.js";

/** Where a part of a RAM block lies in guest-physical memory; all of it in pages of 4096 bytes. */
export type GuestRun = {
  /** Index of the RAM block, in the guest's order. */
  readonly block: number;
  /** Where in that block the run begins. */
  readonly offsetBytes: number;
  readonly guestAddress: number;
  readonly lengthBytes: number;
};

export class LogTracker implements DirtyTracker {
  readonly name = "vhost-user";
  readonly #devices: readonly AttachedDevice[];
  readonly #runs: readonly GuestRun[];
  #blocks: readonly RamBlock[] = [];
  #log: DirtyLog | null = null;

  /**
   * @param devices  Running or suspended.
   * @param runs     All RAM that they may write.
   */
  constructor(devices: readonly AttachedDevice[], runs: readonly GuestRun[]) {
    this.#devices = devices;
    this.#runs = runs;
    for (const { block, offsetBytes, guestAddress, lengthBytes } of runs) {
      if ([offsetBytes, guestAddress, lengthBytes].every((bytes) => bytes % LOG_PAGE_BYTES === 0)) continue;
      throw new ConfigError(
        "VHOST_GUEST_RUN",
        `RAM block ${block}: its part at guest address 0x${guestAddress.toString(16)} is not made of whole 4096-byte pages`,
      );
    }
  }

  /** @throws {ConfigError} VHOST_NOT_OFFERED, where a back-end cannot log; and what requests throw. */
  async start(blocks: readonly RamBlock[]): Promise<void> {
    this.#blocks = blocks;
    const log = new DirtyLog(this.#endAddress());
    this.#log = log;
    for (const device of this.#devices) await device.startLog(log.shared);
  }

  harvest(block: number, dirty: DirtyBitmap): void {
    const log = this.#log!;
    this.#noteSuspendedRings(log);
    const logPages = this.#blocks[block]!.pageBytes / LOG_PAGE_BYTES;
    for (const run of this.#runs) {
      if (run.block !== block) continue;
      const first = run.offsetBytes / LOG_PAGE_BYTES;
      log.take(run.guestAddress / LOG_PAGE_BYTES, run.lengthBytes / LOG_PAGE_BYTES, (page) =>
        dirty.set(Math.floor((first + page) / logPages)),
      );
    }
  }

  async stop(): Promise<void> {
    const log = this.#log;
    this.#log = null;
    if (log === null) return;
    for (const device of this.#devices) {
      try {
        await device.stopLog();
      } catch {
        // A back-end that is gone logs no more; whoever uses the device next is told.
      }
    }
    log.close();
  }

  #noteSuspendedRings(log: DirtyLog): void {
    for (const device of this.#devices) {
      if (device.isRunning) continue;
      for (const { used, size } of device.guest.rings) log.note(used, usedRingBytes(size));
    }
  }

  #endAddress(): number {
    const ends = this.#runs.map(({ guestAddress, lengthBytes }) => guestAddress + lengthBytes);
    for (const { guest } of this.#devices) {
      for (const { guestAddress, lengthBytes } of guest.memory) ends.push(guestAddress + lengthBytes);
      for (const { used, size } of guest.rings) ends.push(used + usedRingBytes(size));
    }
    return Math.max(0, ...ends);
  }
}
