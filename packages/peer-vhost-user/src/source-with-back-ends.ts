/**
 * Source with back-ends: a guest whose devices live in processes of their own, as the engine's source wants it.
 *
 *   pause      the guest, then every back-end's rings
 *   save       each back-end's state, as the channels take it; a harvest follows, for saving may write guest memory
 *   resume     the back-ends where they stopped, then the guest
 *
 * A back-end's state travels as a device record under `vhost-user/NAME`. If one
 * cannot be suspended or saved, the migration fails, and the engine resumes everything.
 *
 * Owns neither the guest nor the devices.
 */
import { CombinedTracker, type DeviceStateProvider, type RamSource, type SourceGuest } from "@multifd/engine";
import type { DirtyTracker } from "@multifd/memory";
import { placeError } from "@multifd/protocol";
import type { AttachedDevice } from "./attached-device.js";
import { encodeRecordHead, recordName } from "./device-record.js";
import { type GuestRun, LogTracker } from "./log-tracker.js";
import { saveState } from "./state-transfer.js";

export class SourceWithBackEnds implements SourceGuest {
  readonly ram: readonly RamSource[];
  readonly tracker: DirtyTracker;
  readonly devices: readonly DeviceStateProvider[];
  /** Devices that could not be resumed, and why: the guest runs without them until their back-ends are back. */
  readonly lost = new Map<string, Error>();
  readonly #guest: SourceGuest;
  readonly #backEnds: ReadonlyMap<string, AttachedDevice>;

  /**
   * @param guest     What else writes its RAM is its own tracker's to tell.
   * @param backEnds  By the name under which the destination knows them; running.
   * @param runs      Where the guest's RAM blocks lie in guest-physical memory.
   */
  constructor(guest: SourceGuest, backEnds: ReadonlyMap<string, AttachedDevice>, runs: readonly GuestRun[]) {
    this.#guest = guest;
    this.#backEnds = backEnds;
    this.ram = guest.ram;
    const records = [...backEnds].map(
      ([name, device]): DeviceStateProvider => ({
        idstr: recordName(name),
        instanceId: 0,
        save: () => saveRecord(name, device),
        savesIntoRam: true,
      }),
    );
    this.devices = [...guest.devices, ...records];
    const logTracker = new LogTracker([...backEnds.values()], runs);
    this.tracker = guest.tracker === null ? logTracker : new CombinedTracker([guest.tracker, logTracker]);
  }

  async pause(): Promise<void> {
    await this.#guest.pause();
    for (const [name, device] of this.#backEnds) {
      try {
        await device.suspend();
      } catch (error) {
        throw placeError(error, `device "${name}"`);
      }
    }
  }

  /** The guest goes on even where a back-end cannot: as it would if that had died under it. */
  async resume(): Promise<void> {
    for (const [name, device] of this.#backEnds) {
      if (device.isRunning) continue;
      try {
        await device.resume();
      } catch (error) {
        this.lost.set(name, error as Error);
      }
    }
    await this.#guest.resume();
  }
}

/** A suspended device's record, in pieces. */
async function* saveRecord(name: string, device: AttachedDevice): AsyncGenerator<Uint8Array, void> {
  try {
    yield encodeRecordHead(device);
    if (device.frontEnd.movesState) yield* saveState(device.frontEnd);
  } catch (error) {
    throw placeError(error, `device "${name}"`);
  }
}
