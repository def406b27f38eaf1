/**
 * Reception: connections to a destination's address, one after the other.
 *
 * The first is the main channel; others are let in only while RAM may come.
 * Nobody is asked who he is here: what a connection says first is read by whoever
 * takes it.
 */
import { type Address, type Channel, formatAddress, Listener, type TlsListenTerms, TlsPump } from "@multifd/channel";
import { closeDescriptor, createEvent, pollReadable, signalEvent } from "@multifd/native";
import { ChannelError, placeError } from "@multifd/protocol";

/** A poll holds one of libuv's few threads: no longer than this at a time. Giving up ends it at once. */
const POLL_MS = 200;
const BACKLOG = 128;

export class Reception {
  readonly #listener: Listener;
  readonly #tls: TlsPump | null;
  readonly #handshakeTimeoutMs: number;
  /** Signalled to wake whoever polls. */
  readonly #bell = createEvent();
  #closed = false;
  #waiting: Promise<unknown> = Promise.resolve();

  private constructor(listener: Listener, tls: TlsListenTerms | undefined, handshakeTimeoutMs: number) {
    this.#listener = listener;
    this.#tls = tls === undefined ? null : new TlsPump(tls);
    this.#handshakeTimeoutMs = handshakeTimeoutMs;
  }

  static async listen(
    address: Address,
    tls: TlsListenTerms | undefined,
    handshakeTimeoutMs: number,
  ): Promise<Reception> {
    return new Reception(await Listener.listen(address, BACKLOG), tls, handshakeTimeoutMs);
  }

  get address(): Address {
    return this.#listener.address;
  }

  /**
   * The next connection; under TLS it is still in its handshake.
   *
   * @returns null once `signal` is aborted or this is closed.
   */
  async next(signal: AbortSignal): Promise<Channel | null> {
    const wake = () => this.#ring();
    signal.addEventListener("abort", wake);
    try {
      while (!this.#closed && !signal.aborted) {
        const socket = this.#listener.accept();
        if (socket !== null) return this.#tls?.secure(socket, this.#handshakeTimeoutMs) ?? socket;
        const poll = pollReadable([this.#listener.descriptor, this.#bell], POLL_MS);
        this.#waiting = poll;
        await poll;
      }
      return null;
    } finally {
      signal.removeEventListener("abort", wake);
    }
  }

  /** Waits for a connection's handshake. @throws {MigrationError} TLS_…, also once `signal` is aborted; the channel is closed then. */
  async secured(channel: Channel, signal: AbortSignal): Promise<void> {
    if (this.#tls === null) return;
    const timeout = new ChannelError(
      "TLS_HANDSHAKE_TIMEOUT",
      `the TLS handshake was not finished within ${this.#handshakeTimeoutMs} ms; is TLS switched on at the source?`,
    );
    let timer: NodeJS.Timeout | undefined;
    const giveUp = () => channel.shutDown();
    signal.addEventListener("abort", giveUp);
    try {
      const late = new Promise<never>((_, reject) => {
        timer = setTimeout(reject, this.#handshakeTimeoutMs, timeout);
      });
      await Promise.race([channel.secured(), late]);
    } catch (error) {
      channel.close();
      throw placeError(error, formatAddress(this.address));
    } finally {
      clearTimeout(timer);
      signal.removeEventListener("abort", giveUp);
    }
  }

  /** Lets nobody in any more. Idempotent. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#ring();
    this.#closed = true;
    await this.#waiting; // the descriptors are in a poll: freed now, they could be somebody else's
    closeDescriptor(this.#bell);
    this.#listener.close();
    this.#tls?.end();
  }

  #ring(): void {
    if (!this.#closed) signalEvent(this.#bell);
  }
}
