/**
 * Live guest: a running guest process as a migration's source.
 *
 * Its RAM arrives as descriptors, its writes are seen by PAGEMAP_SCAN on its
 * process, its state beside RAM is one device state. Tracking works only where
 * the guest registered its own mapping, so that is asked before anything starts.
 */
import type { Address } from "@multifd/channel";
import {
  type DeviceStateProvider,
  type RamSource,
  requireTracking,
  type SourceGuest,
  UserfaultfdTracker,
  wholeBlock,
} from "@multifd/engine";
import type { DirtyTracker } from "@multifd/memory";
import { SystemError } from "@multifd/protocol";
import { GuestSocket, type GuestStatus } from "./guest-socket.js";

/** The device state of a guest process: one, under this name at both ends. */
export const GUEST_STATE = { idstr: "multifd-guest", instanceId: 0 } as const;

export class LiveGuest implements SourceGuest {
  readonly ram: readonly RamSource[];
  readonly tracker: DirtyTracker;
  readonly devices: readonly DeviceStateProvider[];
  readonly #socket: GuestSocket;

  private constructor(socket: GuestSocket) {
    const { pid, blocks } = socket.description;
    this.#socket = socket;
    this.ram = blocks.map(({ block }, index) => ({ block, descriptor: socket.descriptors[index]!, offsetBytes: 0 }));
    this.devices = [{ ...GUEST_STATE, save: () => savedBy(socket) }];
    this.tracker = new UserfaultfdTracker(
      pid,
      blocks.map(({ address, block }) => wholeBlock(address, block)),
    );
  }

  /** @throws {SystemError} TRACKING_MISSING, naming the kernel feature, or the guest's own reason. */
  static async open(address: Address): Promise<LiveGuest> {
    requireTracking();
    const socket = await GuestSocket.connect(address);
    try {
      const { tracking, trackingError } = socket.description;
      if (!tracking) {
        throw new SystemError(
          "TRACKING_MISSING",
          `guest ${socket.description.pid} has not registered its RAM for write tracking (${trackingError}); without it a migration can only be made of a stopped guest`,
        );
      }
      return new LiveGuest(socket);
    } catch (error) {
      socket.close();
      throw error;
    }
  }

  pause(): Promise<void> {
    return this.#socket.pause();
  }

  resume(): Promise<void> {
    return this.#socket.resume();
  }

  /** What it tells of its vhost-user devices, and the descriptors that this speaks of. */
  get socket(): GuestSocket {
    return this.#socket;
  }

  status(): Promise<GuestStatus> {
    return this.#socket.status();
  }

  /** Bytes of RAM that it dirties per second from now on. */
  setRate(bytesPerSecond: number): Promise<void> {
    return this.#socket.setRate(bytesPerSecond);
  }

  close(): void {
    this.#socket.close();
  }
}

async function* savedBy(socket: GuestSocket): AsyncGenerator<Uint8Array, void> {
  yield await socket.save();
}
