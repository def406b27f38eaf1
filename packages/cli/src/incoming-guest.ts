/**
 * Incoming guest: a guest process that waits for its RAM and its state.
 *
 * Pages go straight into the RAM that the process has mapped. Nothing runs there
 * before `commit`, which loads the state and starts the guest; its answer is the
 * downtime as the guest itself saw it. After a failure the RAM is emptied again,
 * so the same process can take the next attempt; a guest that was already started
 * is paused instead, for it may be the only one left.
 */
import { fstatSync } from "node:fs";
import type { Address } from "@multifd/channel";
import {
  collectDeviceState,
  type DestinationGuest,
  type DeviceName,
  type DevicePart,
  type RamPlacement,
} from "@multifd/engine";
import type { RamBlock } from "@multifd/memory";
import { hugePageBytes, punchFile } from "@multifd/native";
import { ConfigError, ProtocolError } from "@multifd/protocol";
import { STATE_BYTES_MAX } from "./guest-line.js";
import { GuestSocket } from "./guest-socket.js";
import { GUEST_STATE } from "./live-guest.js";

/** What a device part without devices begins with. Source: QEMU 10.2, migration/savevm.h, QEMU_VM_EOF. */
const END_OF_SECTIONS = 0;

export class IncomingGuest implements DestinationGuest {
  readonly #socket: GuestSocket;
  #state: Uint8Array | null = null;
  #mayRun = false;
  #downtimeMs: number | null = null;

  private constructor(socket: GuestSocket) {
    this.#socket = socket;
  }

  static async open(address: Address): Promise<IncomingGuest> {
    return new IncomingGuest(await GuestSocket.connect(address));
  }

  get socket(): GuestSocket {
    return this.#socket;
  }

  /** Pause to first write here, by the guest's own clock; null before `commit`. Means something on one machine only. */
  get downtimeMs(): number | null {
    return this.#downtimeMs;
  }

  /** @throws {ConfigError} GUEST_RAM, where the stream's blocks are not this guest's. */
  async placeRam(blocks: readonly RamBlock[]): Promise<readonly RamPlacement[]> {
    const own = this.#socket.description.blocks;
    const missing = own.find(({ block }) => !blocks.some((other) => other.name === block.name));
    if (missing) {
      throw new ConfigError(
        "GUEST_RAM",
        `the stream has no RAM block "${missing.block.name}", which the guest waits for`,
      );
    }
    return blocks.map((block) => {
      const index = own.findIndex((other) => other.block.name === block.name);
      const found = own[index]?.block;
      if (!found || found.lengthBytes !== block.lengthBytes) {
        throw new ConfigError(
          "GUEST_RAM",
          `RAM block "${block.name}" comes with ${block.lengthBytes} bytes, the guest has ${found?.lengthBytes ?? 0}; start both with the same memory`,
        );
      }
      const descriptor = this.#socket.descriptors[index]!;
      return {
        block,
        descriptor,
        through: hugePageBytes(descriptor) > 0 ? "mapping" : "file",
        startsZeroed: fstatSync(descriptor).blocks === 0,
      };
    });
  }

  async loadDeviceState(device: DeviceName, state: AsyncIterable<Uint8Array>): Promise<void> {
    if (device.idstr !== GUEST_STATE.idstr || device.instanceId !== GUEST_STATE.instanceId) {
      throw new ProtocolError(
        "DEVICE_UNKNOWN",
        `device state "${device.idstr}" ${device.instanceId}: a guest process knows only "${GUEST_STATE.idstr}"`,
      );
    }
    this.#state = await collectDeviceState(device, state, STATE_BYTES_MAX);
  }

  async loadDevices(devices: DevicePart): Promise<void> {
    const first = devices.sections[0] ?? END_OF_SECTIONS;
    if (first !== END_OF_SECTIONS) {
      throw new ProtocolError(
        "DEVICE_UNKNOWN",
        "the stream carries a VM's devices; a guest process has none: receive with --ram and --devices",
      );
    }
  }

  async commit(): Promise<void> {
    if (!this.#state) {
      throw new ProtocolError("DEVICE_MISSING", `the stream ended without the device state "${GUEST_STATE.idstr}"`);
    }
    await this.#socket.load(this.#state);
    this.#mayRun = true;
    this.#downtimeMs = (await this.#socket.run()).downtimeMs;
  }

  async abandon(): Promise<void> {
    try {
      // A guest that has been started may be the only one left: it stands still, whole, until somebody decides.
      if (this.#mayRun) await this.#socket.pause();
      else this.#emptyRam();
    } catch {
      // It answers no more, and the source will resume its own: one that may run here has to go.
      if (this.#mayRun) endProcess(this.#socket.description.pid);
    }
  }

  #emptyRam(): void {
    const { descriptors, description } = this.#socket;
    description.blocks.forEach(({ block }, index) => {
      punchFile(descriptors[index]!, 0, block.lengthBytes);
    });
  }

  close(): void {
    this.#socket.close();
  }
}

function endProcess(pid: number): void {
  try {
    process.kill(pid, "SIGKILL");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
  }
}
