/**
 * Listener: one listening socket for the main channel and all multifd channels.
 *
 * Accepting never blocks: whoever sorts the connections polls the listener and
 * the connections that have not spoken yet in one call. A unix path left behind
 * by a dead process is taken over; one that somebody listens on is not, and he hears nothing of it.
 */
import { lstatSync, unlinkSync } from "node:fs";
import {
  acceptSocket,
  closeDescriptor,
  isPathInUse,
  listenSocket,
  localPort,
  type SocketAddress,
} from "@multifd/native";
import { placeError, SystemError } from "@multifd/protocol";
import { type Address, formatAddress, resolveAddress } from "./address.js";
import { Channel } from "./channel.js";

export class Listener {
  /** As asked for, with the port that the system chose where 0 was given. */
  readonly address: Address;
  readonly descriptor: number;
  #open = true;

  private constructor(address: Address, descriptor: number) {
    this.address = address;
    this.descriptor = descriptor;
  }

  /**
   * @param backlog  Connections that may wait; at least one per channel and one for the main channel.
   * @throws {SystemError} SYSTEM_EADDRINUSE and what else bind(2) and listen(2) refuse.
   */
  static async listen(address: Address, backlog: number): Promise<Listener> {
    const socketAddress = await resolveAddress(address, "listen");
    try {
      const descriptor = listenOrTakeOver(socketAddress, backlog);
      const bound = address.kind === "tcp" ? { ...address, port: localPort(descriptor) } : address;
      return new Listener(bound, descriptor);
    } catch (error) {
      throw placeError(error, formatAddress(address));
    }
  }

  /** @returns null when nobody waits. */
  accept(): Channel | null {
    const descriptor = acceptSocket(this.descriptor);
    return descriptor === null ? null : new Channel(descriptor);
  }

  close(): void {
    if (!this.#open) return;
    this.#open = false;
    closeDescriptor(this.descriptor);
    if (this.address.kind === "unix" && !this.address.path.startsWith("@")) removeSocketFile(this.address.path);
  }
}

function listenOrTakeOver(address: SocketAddress, backlog: number): number {
  try {
    return listenSocket(address, backlog);
  } catch (error) {
    const inUse = error instanceof SystemError && error.code === "SYSTEM_EADDRINUSE";
    if (!inUse || address.family !== 1 || isPathInUse(address.path)) throw error;
    removeSocketFile(address.path);
    return listenSocket(address, backlog);
  }
}

function removeSocketFile(path: string): void {
  if (lstatSync(path, { throwIfNoEntry: false })?.isSocket()) unlinkSync(path);
}
