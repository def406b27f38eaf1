/**
 * Source with back-ends: a guest whose devices live in processes of their own, as the engine's source wants it.
 *
 *   pause      the guest, then every back-end's rings; then each state is saved
 *   harvest    behind that, so that no write of a back-end comes too late
 *   resume     the back-ends where they stopped, then the guest
 *
 * A back-end's state travels as a device record under `vhost-user/NAME`. If one
 * cannot be suspended or saved, pausing fails, and the engine resumes everything.
 *
 * Owns neither the guest nor the devices.
 */
import { CombinedTracker, type DeviceState, type RamSource, type SourceGuest } from "@multifd/engine";
import type { DirtyTracker } from "@multifd/memory";
import { placeError } from "@multifd/protocol";
import type { AttachedDevice } from "./attached-device.js";
import { encodeRecordHead, recordName } from "./device-record.js";
import { type GuestRun, LogTracker } from "./log-tracker.js";
import { saveState } from "./state-transfer.js";

export class SourceWithBackEnds implements SourceGuest {
  readonly ram: readonly RamSource[];
  readonly tracker: DirtyTracker;
  /** Devices that could not be resumed, and why: the guest runs without them until their back-ends are back. */
  readonly lost = new Map<string, Error>();
  readonly #guest: SourceGuest;
  readonly #devices: ReadonlyMap<string, AttachedDevice>;
  #states: readonly DeviceState[] = [];

  /**
   * @param guest    What else writes its RAM is its own tracker's to tell.
   * @param devices  By the name under which the destination knows them; running.
   * @param runs     Where the guest's RAM blocks lie in guest-physical memory.
   */
  constructor(guest: SourceGuest, devices: ReadonlyMap<string, AttachedDevice>, runs: readonly GuestRun[]) {
    this.#guest = guest;
    this.#devices = devices;
    this.ram = guest.ram;
    const logTracker = new LogTracker([...devices.values()], runs);
    this.tracker = guest.tracker === null ? logTracker : new CombinedTracker([guest.tracker, logTracker]);
  }

  async pause(): Promise<void> {
    await this.#guest.pause();
    for (const [name, device] of this.#devices) {
      await placed(name, () => device.suspend());
    }
    const states: DeviceState[] = [];
    for (const [name, device] of this.#devices) {
      const bytes = await placed(name, () => saveDevice(device));
      states.push({ idstr: recordName(name), instanceId: 0, bytes });
    }
    this.#states = states;
  }

  /** The guest goes on even where a back-end cannot: as it would if that had died under it. */
  async resume(): Promise<void> {
    for (const [name, device] of this.#devices) {
      if (device.isRunning) continue;
      try {
        await device.resume();
      } catch (error) {
        this.lost.set(name, error as Error);
      }
    }
    await this.#guest.resume();
  }

  async deviceStates(): Promise<readonly DeviceState[]> {
    return [...(await this.#guest.deviceStates()), ...this.#states];
  }
}

async function saveDevice(device: AttachedDevice): Promise<Uint8Array> {
  const parts: Uint8Array[] = [encodeRecordHead(device)];
  if (device.frontEnd.movesState) for await (const chunk of saveState(device.frontEnd)) parts.push(chunk);
  return Buffer.concat(parts);
}

async function placed<Result>(name: string, act: () => Promise<Result>): Promise<Result> {
  try {
    return await act();
  } catch (error) {
    throw placeError(error, `device "${name}"`);
  }
}
