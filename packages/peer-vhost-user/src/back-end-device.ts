/**
 * Back-end device: what whoever writes a device brings, and nothing of the protocol.
 *
 * Everything is called on one thread, never two calls at once. A device outlives
 * its front-end: after a reconnection the rings are set up anew and it goes on.
 */
import type { DeviceQueue } from "./device-queue.js";

export interface BackEndDevice {
  /** Device features offered, beside those of the transport. */
  readonly features: bigint;
  readonly queues: number;
  /**
   * A queue was kicked, or has just been started: take chains and give them back.
   *
   * @throws {MigrationError} to drop the front-end.
   */
  serve(queue: DeviceQueue): void;
  /** The device's configuration space, if it has one; at most 256 bytes. */
  readonly config?: Uint8Array;
  /** What the device is to take along when it moves; called with all rings stopped. */
  saveState?(): AsyncIterable<Uint8Array> | Iterable<Uint8Array>;
  /**
   * Takes such a state over. Called with all rings stopped.
   *
   * @throws to refuse it: the front-end is told, and what the device was before it must still be.
   */
  loadState?(state: Uint8Array): void | Promise<void>;
  /** Announce the guest on the device's network: six bytes of MAC address. */
  announce?(mac: Uint8Array): void;
}
