/**
 * Channel: the lifetime of one raw, blocking socket.
 *
 * The coordinator owns the descriptor; a worker only borrows its number. So a
 * channel ends in three steps, and in this order: `shutDown` wakes whoever
 * blocks on it, the worker returns, `close` frees the number. Closing first could
 * hand a number that a worker still uses to somebody else's file.
 *
 * Under TLS the descriptor is one end of a pair whose other end the TLS thread
 * serves: everything here and above stays as it is, but the end of the stream
 * then has a reason that only the tunnel knows. Whoever meets it asks `explain`.
 */
import { closeDescriptor, connectSocket, shutdownSocket } from "@multifd/native";
import { ChannelError, placeError } from "@multifd/protocol";
import { type Address, formatAddress, resolveAddress } from "./address.js";
import type { TlsTunnel } from "./tls-tunnel.js";

/** How long a tunnel that has just ended may take to say why. */
const REASON_MS = 1000;

export class Channel {
  readonly descriptor: number;
  readonly #tunnel: TlsTunnel | null;
  #open = true;

  constructor(descriptor: number, tunnel: TlsTunnel | null = null) {
    this.descriptor = descriptor;
    this.#tunnel = tunnel;
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

  /** Null on a plain socket, and "handshake" until both sides have proved who they are; no byte comes before. */
  get tls(): "handshake" | "secured" | null {
    return this.#tunnel?.state ?? null;
  }

  /**
   * Waits for the TLS handshake; at once on a plain socket.
   *
   * @throws {MigrationError} TLS_…: why there is none. The channel is still to be closed.
   */
  async secured(): Promise<void> {
    await this.#tunnel?.secured;
  }

  /**
   * The reason why the stream ended or broke, where TLS knows it better than `error` does.
   *
   * @param error  What the descriptor showed. Anything but a ChannelError is no matter of the link and comes back.
   */
  async explain<Shown>(error: Shown): Promise<Shown | Error> {
    if (this.#tunnel === null || (error !== null && !(error instanceof ChannelError))) return error;
    return (await this.#tunnel.reason(REASON_MS)) ?? error;
  }

  /** Wakes every blocked send and receive; nothing more will cross. */
  shutDown(): void {
    if (this.#open) shutdownSocket(this.descriptor);
    this.#tunnel?.leave();
  }

  /** Frees the descriptor. Only after the worker that borrowed it has returned. */
  close(): void {
    if (!this.#open) return;
    this.#open = false;
    closeDescriptor(this.descriptor);
    this.#tunnel?.leave();
  }

  /** Hands the descriptor over to a new owner, who closes it; this object then only explains, until it is shut down. */
  release(): number {
    this.#open = false;
    return this.descriptor;
  }
}
