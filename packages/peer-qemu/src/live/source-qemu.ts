/**
 * Source QEMU: the running guest of an unmodified QEMU, as our engine's source.
 *
 * RAM is read from the file that QEMU shares it in, writes are seen by a tracker from outside, and what else there is
 * comes out of QEMU's own migration when it stops (device-capture.ts). QEMU is not told of the
 * migration before that: whatever fails until then, the guest never notices.
 *
 * A guest whose disks are read past the page cache is stopped for each harvest, some milliseconds: QEMU then has its
 * drives finish, and no page is written that counts as harvested. Such a guest's last harvest waits for the same.
 */
import type { DeviceStateProvider, RamSource, SourceGuest } from "@multifd/engine";
import type { DirtyTracker } from "@multifd/memory";
import { ProtocolError } from "@multifd/protocol";
import type { MigrationSettings } from "../drive/migration-settings.js";
import type { QmpClient } from "../qmp-client.js";
import type { DeviceCapture } from "./device-capture.js";
import { DEVICE_STREAM } from "./device-stream.js";
import { encodeMachineRecord, type MachineRecord } from "./machine-record.js";
import type { SharedRam } from "./shared-ram.js";

export class SourceQemu implements SourceGuest {
  readonly ram: readonly RamSource[];
  readonly tracker: DirtyTracker;
  readonly introduction: readonly DeviceStateProvider[];
  readonly devices: readonly DeviceStateProvider[];
  readonly holdTransfers?: (harvest: () => Promise<void>) => Promise<void>;
  readonly stopSoon?: () => Promise<void>;
  readonly #capture: DeviceCapture;
  readonly #drained: boolean;

  /**
   * @param settings  QEMU's, borrowed for the migration.
   * @param direct  QEMU's monitor, where its disks are read past the page cache; else null.
   */
  constructor(
    ram: SharedRam,
    tracker: DirtyTracker,
    record: MachineRecord,
    capture: DeviceCapture,
    settings: MigrationSettings,
    direct: QmpClient | null,
  ) {
    this.ram = ram.blocks.map(({ block, descriptor, offsetBytes }) => ({ block, descriptor, offsetBytes }));
    this.tracker = tracker;
    this.introduction = [encodeMachineRecord(record)];
    this.#capture = capture;
    this.#drained = direct !== null;
    if (direct !== null && record.running) this.holdTransfers = (harvest) => whileStopped(direct, harvest);
    // A guest that is stopped for each harvest cannot be stopped by QEMU between two of them.
    if (direct === null && record.running) this.stopSoon = () => capture.stopSoon(settings);
    // Requests that a device had under way when the guest stopped are finished before QEMU saves, and write RAM.
    this.devices = [{ ...DEVICE_STREAM, savesIntoRam: true, sendsAtOnce: true, save: () => capture.pieces() }];
  }

  async pause(): Promise<void> {
    await this.#capture.stop();
    // QEMU says that it has stopped before its drives have finished; when it has saved them, they have.
    if (this.#drained) await this.#capture.stream();
  }

  resume(): Promise<void> {
    return this.#capture.resume();
  }

  handOver(): void {
    this.#capture.release();
  }
}

/** @throws {ProtocolError} RESUME_FAILED, where the guest stands still and should not. */
async function whileStopped(qmp: QmpClient, harvest: () => Promise<void>): Promise<void> {
  await qmp.execute("stop");
  try {
    await qmp.waitForEvent("STOP"); // taken, so that nobody takes it for the stop at the end
    await harvest();
  } finally {
    await goOn(qmp);
  }
}

async function goOn(qmp: QmpClient): Promise<void> {
  try {
    await qmp.execute("cont");
  } catch (cause) {
    const message = `the guest stood still for a moment and could not be resumed: ${(cause as Error).message}`;
    throw new ProtocolError("RESUME_FAILED", message, { cause });
  }
}
