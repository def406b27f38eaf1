/**
 * Guest back-ends: the vhost-user devices of a guest process, attached, moved away, and taken in.
 *
 * multifd is the front-end while it sets a back-end up or moves it; before and behind
 * that the guest holds the connection, and with it the back-end's life. So whatever is
 * started here is handed to the guest (`adopt`) before anybody may depend on it.
 */
import type { DestinationGuest, SourceGuest } from "@multifd/engine";
import {
  AttachedDevice,
  announceGuest,
  DestinationWithBackEnds,
  FrontEnd,
  type MemoryRegion,
  SourceWithBackEnds,
  type WaitingBackEnd,
} from "@multifd/peer-vhost-user";
import { ConfigError, placeError } from "@multifd/protocol";
import { type Command, InvalidArgumentError, Option } from "commander";
import { CONNECT_TIMEOUT_MS } from "../channel-flags.js";
import type { GuestSocket } from "../guest-socket.js";
import type { GuestDevice } from "./guest-devices.js";

/** A back-end drains its rings before it answers. */
const REPLY_TIMEOUT_MS = 10_000;

export type BackEndFlags = { readonly vhostUser?: ReadonlyMap<string, string> };

export function addBackEndFlag(command: Command): Command {
  return command.addOption(
    new Option(
      "--vhost-user <name=socket...>",
      "a vhost-user device of the guest and its back-end here; name the same ones on both sides",
    ).argParser(backEndSocket),
  );
}

/** Collects `NAME=SOCKET`, each device once. */
function backEndSocket(text: string, previous: ReadonlyMap<string, string> = new Map()): ReadonlyMap<string, string> {
  const at = text.indexOf("=");
  const [name, path] = [text.slice(0, Math.max(at, 0)), text.slice(at + 1)];
  if (name === "" || path === "")
    throw new InvalidArgumentError("Write NAME=SOCKET, such as files=/run/virtiofsd.sock.");
  if (previous.has(name)) throw new InvalidArgumentError(`Device "${name}" is named twice.`);
  return new Map([...previous, [name, path]]);
}

/** A running guest's devices. */
export class GuestBackEnds {
  readonly #socket: GuestSocket;
  readonly #devices = new Map<string, AttachedDevice>();
  #moving: SourceWithBackEnds | null = null;

  private constructor(socket: GuestSocket) {
    this.#socket = socket;
  }

  /**
   * Takes the connections over that the guest lends; where it has none, connects the back-end and starts it.
   *
   * @param sockets  By device.
   * @throws {ConfigError} GUEST_DEVICE, where these are not the guest's devices; and what back-ends answer.
   */
  static async open(socket: GuestSocket, sockets: ReadonlyMap<string, string>): Promise<GuestBackEnds> {
    checkDevices(socket, sockets);
    const backEnds = new GuestBackEnds(socket);
    try {
      for (const device of socket.description.devices) {
        await backEnds.#attach(device, sockets.get(device.name)!);
      }
      return backEnds;
    } catch (error) {
      backEnds.leave();
      throw error;
    }
  }

  /** The same guest, whose devices move with it. */
  around(guest: SourceGuest): SourceGuest {
    if (this.#devices.size === 0) return guest;
    this.#moving = new SourceWithBackEnds(guest, this.#devices, this.#socket.description.memory);
    return this.#moving;
  }

  /** Devices that could not be resumed after a failure, and why. */
  get lost(): ReadonlyMap<string, Error> {
    return this.#moving?.lost ?? new Map();
  }

  /** The guest goes on with them. */
  leave(): void {
    for (const { frontEnd } of this.#devices.values()) frontEnd.leave();
  }

  /** The guest runs elsewhere: no back-end may take another request of it. */
  end(): void {
    for (const { frontEnd } of this.#devices.values()) frontEnd.close();
  }

  async #attach(device: GuestDevice, path: string): Promise<void> {
    const { name, connection, features, rings, bases } = device;
    const side = { features, rings, memory: memoryOf(this.#socket), events: eventsOf(this.#socket, device) };
    if (connection !== null) {
      const descriptor = this.#socket.take(connection.at);
      const frontEnd = FrontEnd.takeOver(descriptor, `back-end of "${name}"`, connection, features, REPLY_TIMEOUT_MS);
      this.#devices.set(name, AttachedDevice.running(frontEnd, side));
      return;
    }
    const frontEnd = await dial(path);
    try {
      const attached = new AttachedDevice(frontEnd, side, bases);
      await attached.start();
      await this.#socket.adopt(name, frontEnd);
      this.#devices.set(name, attached);
    } catch (error) {
      frontEnd.close();
      throw placeError(error, `device "${name}"`);
    }
  }
}

/** Back-ends that wait for a guest's devices. */
export class WaitingBackEnds {
  readonly #socket: GuestSocket;
  readonly #backEnds: ReadonlyMap<string, WaitingBackEnd>;
  #moved: DestinationWithBackEnds | null = null;

  private constructor(socket: GuestSocket, backEnds: ReadonlyMap<string, WaitingBackEnd>) {
    this.#socket = socket;
    this.#backEnds = backEnds;
  }

  /** @throws {ConfigError} GUEST_DEVICE, where these are not the guest's devices; and what back-ends answer. */
  static async open(socket: GuestSocket, sockets: ReadonlyMap<string, string>): Promise<WaitingBackEnds> {
    checkDevices(socket, sockets);
    const opened = new Map<string, WaitingBackEnd>();
    try {
      for (const device of socket.description.devices) {
        const frontEnd = await dial(sockets.get(device.name)!);
        const events = eventsOf(socket, device);
        opened.set(device.name, {
          frontEnd,
          events: (rings) =>
            rings.map(({ index }) => {
              const at = device.rings.findIndex((ring) => ring.index === index);
              if (at >= 0) return events[at]!;
              throw new ConfigError(
                "GUEST_DEVICE",
                `device "${device.name}": ring ${index} comes, and the guest here has none; start it with the same devices`,
              );
            }),
        });
      }
      return new WaitingBackEnds(socket, opened);
    } catch (error) {
      for (const { frontEnd } of opened.values()) frontEnd.close();
      throw error;
    }
  }

  /** The same guest, which gets its back-ends, started, just before it runs. */
  around(guest: DestinationGuest): DestinationGuest {
    if (this.#backEnds.size === 0) return guest;
    const { description } = this.#socket;
    const adopting: DestinationGuest = {
      placeRam: async (blocks) => {
        const names = description.blocks.map(({ block }) => block.name);
        if (blocks.every(({ name }, at) => name === names[at])) return await guest.placeRam(blocks);
        const came = blocks.map(({ name }) => `"${name}"`).join(", ");
        throw new ConfigError("GUEST_RAM", `RAM blocks ${came} come, the guest here has them in another order`);
      },
      loadDeviceState: (device, state) => guest.loadDeviceState(device, state),
      loadDevices: (devices) => guest.loadDevices(devices),
      commit: async () => {
        for (const [name, { frontEnd }] of this.#backEnds) await this.#socket.adopt(name, frontEnd);
        await guest.commit();
      },
      abandon: () => guest.abandon(),
    };
    this.#moved = new DestinationWithBackEnds(adopting, this.#backEnds, description.memory);
    return this.#moved;
  }

  /**
   * Lets back-ends tell their networks where the guest is now. One whose driver does that itself is asked by its own process.
   *
   * @throws what back-ends answer.
   */
  async announce(signal: AbortSignal): Promise<void> {
    const announcements = this.#socket.description.devices.map(async ({ name, mac }) => {
      const device = this.#moved?.devices.get(name);
      if (mac !== null && device) await announceGuest({ device, mac, signal });
    });
    await Promise.all(announcements);
  }

  /** Ends our use of them; what the guest has adopted goes on. */
  leave(): void {
    for (const { frontEnd } of this.#backEnds.values()) frontEnd.leave();
  }
}

function dial(path: string): Promise<FrontEnd> {
  return FrontEnd.connect({ path, connectTimeoutMs: CONNECT_TIMEOUT_MS, replyTimeoutMs: REPLY_TIMEOUT_MS });
}

/** Every device of the guest is named, and nothing else: one left behind would be lost in silence. */
function checkDevices({ description }: GuestSocket, sockets: ReadonlyMap<string, string>): void {
  const names = description.devices.map(({ name }) => name);
  const missing = names.find((name) => !sockets.has(name));
  const surplus = [...sockets.keys()].find((name) => !names.includes(name));
  if (missing === undefined && surplus === undefined) return;
  const known = names.map((name) => `"${name}"`).join(", ") || "none";
  throw new ConfigError(
    "GUEST_DEVICE",
    missing === undefined
      ? `the guest has no vhost-user device "${surplus}"; it has ${known}`
      : `the guest's vhost-user device "${missing}" has to be named with its back-end: --vhost-user ${missing}=SOCKET`,
  );
}

function memoryOf({ description, descriptors }: GuestSocket): readonly MemoryRegion[] {
  return description.memory.map(({ block, offsetBytes, guestAddress, lengthBytes }) => ({
    guestAddress,
    lengthBytes,
    offsetBytes,
    descriptor: descriptors[block]!,
  }));
}

function eventsOf({ descriptors }: GuestSocket, { events }: GuestDevice) {
  return events.map(({ kick, call }) => ({ kick: descriptors[kick!]!, call: descriptors[call!]! }));
}
