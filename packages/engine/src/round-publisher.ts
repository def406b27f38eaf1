/**
 * Round publisher: splits a round's dirty pages into packets and sees them sent.
 *
 * A splitter puts page indexes straight into the ring's slots, so that no more of a
 * round is ever held than the ring does; the round is over when every channel has
 * written SYNC. A failure is looked for after each wake-up, so an error in any
 * channel ends the round at once. Devices' states go into the same ring meanwhile,
 * whenever a round is open.
 *
 * Runs on the coordinator thread; owns nothing.
 */
import { type DeviceStage, PACKET_KIND, type PacketRing } from "@multifd/dataplane";
import type { DirtyBitmap } from "@multifd/memory";
import type { FirstFailure } from "./first-failure.js";
import type { RamSource } from "./guest.js";
import { type PacketSplitter, splitPackets } from "./packet-splitter.js";

/** Packets published before the workers are woken: enough to start on, few enough to start soon. */
const ANNOUNCE_PACKETS = 32;
/** The bell rings for everything; this only bounds what a lost wake-up or a closed pacer could cost. */
const WAKE_UP_MS = 10;

export type PublisherParts = {
  readonly ring: PacketRing;
  readonly stage: DeviceStage;
  /** The blocks that `dirty` speaks of. */
  readonly ram: readonly RamSource[];
  readonly channels: number;
  readonly pagesMax: number;
  readonly failure: FirstFailure;
};

export class RoundPublisher {
  readonly #parts: PublisherParts;
  /** How many more packets may be published now; null between rounds. */
  #allowed: (() => number) | null = null;

  constructor(parts: PublisherParts) {
    this.#parts = parts;
  }

  /**
   * Sends every dirty page, then SYNC on every channel.
   *
   * @param dirty       One bitmap per RAM block; emptied.
   * @param companions  The round stays open until this resolves: device states that are published meanwhile.
   * @param allowed     How many more packets may be published now; asked often.
   */
  async sendRound(
    dirty: readonly DirtyBitmap[],
    companions: Promise<void> | null,
    allowed: () => number,
  ): Promise<void> {
    const { ring, failure, channels, ram, pagesMax } = this.#parts;
    failure.check();
    ring.openRound();
    this.#allowed = allowed;
    ring.ring(); // whoever has a device's state waits for it
    for (const [block, bitmap] of dirty.entries())
      for (const packets of splitPackets(ram[block]!, bitmap, pagesMax))
        await this.#publishPackets(block, packets, allowed);
    if (companions) await failure.race(companions);
    this.#allowed = null;
    ring.closeRound();
    for (;;) {
      const bell = ring.bell;
      failure.check();
      if (ring.arrived === channels) return;
      await ring.waitForBell(bell, WAKE_UP_MS * 10);
    }
  }

  async #publishPackets(block: number, packets: PacketSplitter, allowed: () => number): Promise<void> {
    const { ring, failure } = this.#parts;
    for (;;) {
      const bell = ring.bell;
      failure.check();
      let quota = allowed();
      let unannounced = 0;
      while (quota > 0 && ring.hasRoom()) {
        const slot = ring.nextSlot();
        const count = packets.next(slot.pages, slot.at);
        if (count === 0) {
          ring.announce();
          return;
        }
        ring.publish(packets.kind, block, count);
        quota--;
        if (++unannounced === ANNOUNCE_PACKETS) {
          ring.announce();
          unannounced = 0;
        }
      }
      ring.announce();
      await ring.waitForBell(bell, WAKE_UP_MS);
    }
  }

  /**
   * Publishes one device-state packet, in the round that is open or the next that will be.
   *
   * @param payload  Its parts, one behind the other; copied by the time this resolves.
   */
  async publishDeviceState(idstr: Uint8Array, instanceId: number, payload: readonly Uint8Array[]): Promise<void> {
    const { ring, stage, failure } = this.#parts;
    for (;;) {
      const bell = ring.bell;
      failure.check();
      const mayPublish = this.#allowed !== null && this.#allowed() > 0 && ring.hasRoom();
      const place = mayPublish ? stage.put(idstr, instanceId, payload) : -1;
      if (place >= 0) {
        ring.publish(PACKET_KIND.deviceState, place, 0);
        ring.announce();
        return;
      }
      await ring.waitForBell(bell, WAKE_UP_MS);
    }
  }
}
