/**
 * Attached device: a back-end with the guest's memory and rings, started, stopped and logged in the order that back-ends need.
 *
 *   start        features, memory, [log], then per ring: size, base, addresses, call, kick, enable
 *   startLog     log and its reply, features with LOG_ALL, addresses again with the used ring's own
 *   suspend      GET_VRING_BASE on every ring: the back-end drains it, closes its descriptors, and writes no more
 *   resume       rings anew from where they stopped, and a kick each: the driver will not kick again for what is in them
 *
 * Which orders work was tried on virtiofsd, qemu-storage-daemon and testpmd; QEMU itself keeps to the same.
 * A failure in the middle leaves the device suspended or its connection closed; the caller then drops it.
 *
 * Owns nothing: connection, memory and event descriptors are the caller's.
 */
import { signalEvent } from "@multifd/native";
import { deviceFeature, featureSet } from "./features.js";
import type { FrontEnd } from "./front-end.js";
import { checkRegions, type MemoryRegion, userAddress } from "./memory-table.js";
import { VRING_LOGGED } from "./messages.js";

/** One split virtqueue; addresses are guest-physical. */
export type Ring = {
  readonly index: number;
  /** Entries, a power of two. */
  readonly size: number;
  readonly descriptors: number;
  readonly available: number;
  readonly used: number;
};

/** Event descriptors of a ring; null where its side polls. */
export type RingEvents = { readonly kick: number | null; readonly call: number | null };

export type GuestSide = {
  /** Device features that the guest's driver agreed on. */
  readonly features: bigint;
  readonly memory: readonly MemoryRegion[];
  readonly rings: readonly Ring[];
  /** By ring, in the same order. */
  readonly events: readonly RingEvents[];
};

/** Memory that back-ends set dirty bits in. */
export type SharedLog = { readonly descriptor: number; readonly lengthBytes: number };

/** virtio's status register with a driver at work: ACKNOWLEDGE, DRIVER, FEATURES_OK, DRIVER_OK. */
const STATUS_DRIVER_OK = 15;

export class AttachedDevice {
  readonly frontEnd: FrontEnd;
  readonly guest: GuestSide;
  #bases: readonly number[];
  #isRunning = false;
  #log: SharedLog | null = null;

  /** @param bases  Where each ring goes on; zeros for rings that were never used. */
  constructor(frontEnd: FrontEnd, guest: GuestSide, bases: readonly number[] = guest.rings.map(() => 0)) {
    if (guest.events.length !== guest.rings.length || bases.length !== guest.rings.length) {
      throw new RangeError("events and bases go with the rings, one each");
    }
    this.frontEnd = frontEnd;
    this.guest = guest;
    this.#bases = bases;
  }

  /** A device that was started through the same connection, by another process. */
  static running(frontEnd: FrontEnd, guest: GuestSide): AttachedDevice {
    const device = new AttachedDevice(frontEnd, guest);
    device.#isRunning = true;
    return device;
  }

  get isRunning(): boolean {
    return this.#isRunning;
  }

  /** Where the rings go on; true while the device is suspended. */
  get bases(): readonly number[] {
    return this.#bases;
  }

  /**
   * Tells the back-end everything and starts its rings. State is loaded before, where there is any.
   *
   * @throws {ConfigError} VHOST_MEMORY_REGION, VHOST_NOT_OFFERED, and what requests throw.
   */
  async start(): Promise<void> {
    const { memory } = this.guest;
    checkRegions(memory);
    await this.#setFeatures();
    await this.frontEnd.memory.replace(memory);
    if (this.#log) await this.frontEnd.memory.setLog(this.#log.lengthBytes, this.#log.descriptor);
    await this.resume();
    await this.frontEnd.setStatus(STATUS_DRIVER_OK);
  }

  /** Stops every ring. When this resolves the back-end writes no guest memory. */
  async suspend(): Promise<void> {
    this.#isRunning = false;
    const bases: number[] = [];
    for (const { index } of this.guest.rings) bases.push(await this.frontEnd.rings.takeBase(index));
    this.#bases = bases;
  }

  /** Starts every ring where it stopped. */
  async resume(): Promise<void> {
    for (const [at, ring] of this.guest.rings.entries()) {
      const { index, size } = ring;
      const { kick, call } = this.guest.events[at]!;
      await this.frontEnd.rings.setSize(index, size);
      await this.frontEnd.rings.setBase(index, this.#bases[at]!);
      await this.#setAddress(ring);
      await this.frontEnd.rings.setCall(index, call);
      await this.frontEnd.rings.setKick(index, kick);
    }
    for (const { index } of this.guest.rings) await this.frontEnd.rings.enable(index, true);
    this.#isRunning = true;
    for (const { kick } of this.guest.events) if (kick !== null) signalEvent(kick);
  }

  /** From when this resolves every write of the back-end is logged. */
  async startLog(log: SharedLog): Promise<void> {
    await this.frontEnd.memory.setLog(log.lengthBytes, log.descriptor);
    this.#log = log;
    await this.#setFeatures();
    if (this.#isRunning) for (const ring of this.guest.rings) await this.#setAddress(ring);
  }

  /** The log may be dropped when this resolves. rust-vmm back-ends go on writing there: theirs stays until they end. */
  async stopLog(): Promise<void> {
    this.#log = null;
    if (this.#isRunning) for (const ring of this.guest.rings) await this.#setAddress(ring);
    await this.#setFeatures();
  }

  /** Tells a changed memory; the log is told again too, for rust-vmm back-ends forget it. */
  async replaceMemory(memory: readonly MemoryRegion[]): Promise<void> {
    checkRegions(memory);
    await this.frontEnd.memory.replace(memory);
    if (this.#log) await this.frontEnd.memory.setLog(this.#log.lengthBytes, this.#log.descriptor);
  }

  async #setFeatures(): Promise<void> {
    const { protocolFeatures, logAll } = deviceFeature;
    const transport = this.frontEnd.offered & featureSet(protocolFeatures);
    await this.frontEnd.setFeatures(this.guest.features | transport | (this.#log ? featureSet(logAll) : 0n));
  }

  async #setAddress({ index, descriptors, available, used }: Ring): Promise<void> {
    await this.frontEnd.rings.setAddress({
      index,
      flags: this.#log ? VRING_LOGGED : 0,
      descriptors: userAddress(descriptors),
      available: userAddress(available),
      used: userAddress(used),
      logAddress: used,
    });
  }
}

/** Bytes of a split used ring, with the index of events behind it. */
export function usedRingBytes(size: number): number {
  return 6 + 8 * size;
}
