/**
 * Channel: the lifetime of one raw, blocking socket.
 *
 * The coordinator owns the descriptor; a worker only borrows its number. So a
 * channel ends in three steps, and in this order: `shutDown` wakes whoever
 * blocks on it, the worker returns, `close` frees the number. Closing first could
 * hand a number that a worker still uses to somebody else's file.
 */
import { closeDescriptor, connectSocket, shutdownSocket } from "@multifd/native";
import { ChannelError, placeError } from "@multifd/protocol";
import { type Address, formatAddress, resolveAddress } from "./address.js";

export class Channel {
  readonly descriptor: number;
  #open = true;

  constructor(descriptor: number) {
    this.descriptor = descriptor;
  }

  /**
   * @throws {ChannelError} CONNECT_FAILED, after `timeoutMs` at the latest.
   * @throws {SystemError} ADDRESS_LOOKUP.
   */
  static async connect(address: Address, timeoutMs: number): Promise<Channel> {
    const socketAddress = await resolveAddress(address, "connect");
    try {
      return new Channel(await connectSocket(socketAddress, timeoutMs));
    } catch (error) {
      if (error instanceof ChannelError) {
        throw new ChannelError("CONNECT_FAILED", `${formatAddress(address)}: ${error.message}`, { cause: error });
      }
      throw placeError(error, formatAddress(address));
    }
  }

  /** Wakes every blocked send and receive; nothing more will cross. */
  shutDown(): void {
    if (this.#open) shutdownSocket(this.descriptor);
  }

  /** Frees the descriptor. Only after the worker that borrowed it has returned. */
  close(): void {
    if (!this.#open) return;
    this.#open = false;
    closeDescriptor(this.descriptor);
  }

  /** Hands the descriptor over to a new owner; this object is done with it. */
  release(): number {
    this.#open = false;
    return this.descriptor;
  }
}
