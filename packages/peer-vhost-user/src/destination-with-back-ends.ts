/**
 * Destination with back-ends: hands arriving device records to back-ends that wait, and starts them with the guest.
 *
 *   record arrives    the back-end takes its state over, or refuses, which fails the migration
 *   commit            memory and rings, from the record; then the guest
 *   abandon           connections are closed: a back-end with a state loaded serves nobody else
 *
 * Owns the connections' end, not the guest.
 */
import type { DestinationGuest, DeviceName, DevicePart, RamPlacement } from "@multifd/engine";
import type { RamBlock } from "@multifd/memory";
import { ConfigError, ProtocolError, placeError } from "@multifd/protocol";
import { AttachedDevice, type Ring, type RingEvents } from "./attached-device.js";
import { type DeviceRecord, openRecord, recordName } from "./device-record.js";
import type { FrontEnd } from "./front-end.js";
import type { GuestRun } from "./log-tracker.js";
import type { MemoryRegion } from "./memory-table.js";
import { loadState } from "./state-transfer.js";

export type WaitingBackEnd = {
  readonly frontEnd: FrontEnd;
  /** Event descriptors for rings of the guest that arrives; asked for once, stay the embedder's. */
  readonly events: (rings: readonly Ring[]) => readonly RingEvents[];
};

export class DestinationWithBackEnds implements DestinationGuest {
  readonly #guest: DestinationGuest;
  readonly #backEnds: ReadonlyMap<string, WaitingBackEnd>;
  readonly #runs: readonly GuestRun[];
  readonly #records = new Map<string, Omit<DeviceRecord, "state">>();
  readonly #devices = new Map<string, AttachedDevice>();
  #memory: readonly MemoryRegion[] = [];

  /**
   * @param backEnds  By the names that the source uses.
   * @param runs      Where the guest's RAM blocks lie in guest-physical memory.
   */
  constructor(guest: DestinationGuest, backEnds: ReadonlyMap<string, WaitingBackEnd>, runs: readonly GuestRun[]) {
    this.#guest = guest;
    this.#backEnds = backEnds;
    this.#runs = runs;
  }

  /** What runs here after `commit`, by name. */
  get devices(): ReadonlyMap<string, AttachedDevice> {
    return this.#devices;
  }

  async placeRam(blocks: readonly RamBlock[]): Promise<readonly RamPlacement[]> {
    const placements = await this.#guest.placeRam(blocks);
    this.#memory = this.#runs.map(({ block, offsetBytes, guestAddress, lengthBytes }) => {
      const placement = placements[block];
      if (placement === undefined || offsetBytes + lengthBytes > placement.block.lengthBytes) {
        throw new ConfigError(
          "VHOST_GUEST_RUN",
          `guest memory at 0x${guestAddress.toString(16)} is to be in RAM block ${block}, which the source lists otherwise; describe both sides alike`,
        );
      }
      const { descriptor, fileOffsetBytes = 0 } = placement;
      return { guestAddress, lengthBytes, descriptor, offsetBytes: fileOffsetBytes + offsetBytes };
    });
    return placements;
  }

  /** @throws {ProtocolError} VHOST_RECORD; {ConfigError} VHOST_NOT_OFFERED; and what loading throws. */
  async loadDeviceState(device: DeviceName, state: AsyncIterable<Uint8Array>): Promise<void> {
    for (const [name, { frontEnd }] of this.#backEnds) {
      if (device.idstr !== recordName(name) || device.instanceId !== 0) continue;
      try {
        const { state: own, ...record } = await openRecord(state);
        await giveState(frontEnd, own);
        this.#records.set(name, record);
      } catch (error) {
        throw placeError(error, `device "${name}"`);
      }
      return;
    }
    await this.#guest.loadDeviceState(device, state);
  }

  loadDevices(devices: DevicePart): Promise<void> {
    return this.#guest.loadDevices(devices);
  }

  /** @throws {ProtocolError} VHOST_RECORD_MISSING, if a back-end that waits was sent nothing. */
  async commit(): Promise<void> {
    for (const name of this.#backEnds.keys()) {
      if (this.#records.has(name)) continue;
      throw new ProtocolError(
        "VHOST_RECORD_MISSING",
        `device "${name}": its back-end waits here, and the source has sent nothing for it; name the same devices on both sides`,
      );
    }
    for (const [name, { frontEnd, events }] of this.#backEnds) {
      const { features, rings, bases } = this.#records.get(name)!;
      const side = { features, memory: this.#memory, rings, events: events(rings) };
      const device = new AttachedDevice(frontEnd, side, bases);
      this.#devices.set(name, device);
      await device.start();
    }
    await this.#guest.commit();
  }

  async abandon(): Promise<void> {
    for (const { frontEnd } of this.#backEnds.values()) frontEnd.close();
    await this.#guest.abandon();
  }
}

/** A back-end that takes no state is given none; it must not have had one, either. */
async function giveState(frontEnd: FrontEnd, state: AsyncIterable<Uint8Array>): Promise<void> {
  if (frontEnd.movesState) {
    await loadState(frontEnd, state);
    return;
  }
  for await (const piece of state) {
    throw new ConfigError(
      "VHOST_NOT_OFFERED",
      `at least ${piece.length} bytes of state came, and the back-end here takes none; start the same program as at the source`,
    );
  }
}
