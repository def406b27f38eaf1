/**
 * Back-end: a device served at a unix socket, to one front-end at a time.
 *
 * The device outlives its front-ends: one that goes, or is dropped for breaking the
 * protocol, may come back, or another may; the next in the queue is served then.
 * Each back-end that waits holds one of libuv's pool threads most of the time: a process that
 * serves more than two starts with a larger UV_THREADPOOL_SIZE.
 *
 * Owns the listening socket and the session.
 */
import { type Address, Listener } from "@multifd/channel";
import { acceptSocket, pollReadable } from "@multifd/native";
import { MigrationError } from "@multifd/protocol";
import type { BackEndDevice } from "./back-end-device.js";
import { BackEndSession, type SessionEvent } from "./back-end-session.js";

export type BackEndEvent =
  | SessionEvent
  | { readonly kind: "connected" }
  /** `error` is null where the front-end just went. */
  | { readonly kind: "disconnected"; readonly error: Error | null };

/** One poll lasts no longer, so that closing is noticed. */
const POLL_MS = 100;
const WAITING_MAX = 8;

export class BackEnd {
  readonly #listener: Listener;
  readonly #device: BackEndDevice;
  readonly #onEvent: (event: BackEndEvent) => void;
  readonly #serving: Promise<void>;
  #session: BackEndSession | null = null;
  #isClosed = false;

  private constructor(listener: Listener, device: BackEndDevice, onEvent: (event: BackEndEvent) => void) {
    this.#listener = listener;
    this.#device = device;
    this.#onEvent = onEvent;
    this.#serving = this.#serve();
  }

  /**
   * Listens at a path, which is taken over from a dead process, and serves until `close`.
   *
   * @param onEvent  Told of connections, refusals and what ended a session. Must not throw.
   * @throws {SystemError} SYSTEM_EADDRINUSE and its like.
   */
  static async listen(
    path: string,
    device: BackEndDevice,
    onEvent: (event: BackEndEvent) => void = () => {},
  ): Promise<BackEnd> {
    const address: Address = { kind: "unix", path };
    return new BackEnd(await Listener.listen(address, WAITING_MAX), device, onEvent);
  }

  /** Drops the front-end and stops listening; resolves when everything is freed. */
  async close(): Promise<void> {
    this.#isClosed = true;
    this.#session?.close();
    await this.#serving;
  }

  async #serve(): Promise<void> {
    const { descriptor } = this.#listener;
    while (!this.#isClosed) {
      const [ready] = await pollReadable([descriptor], POLL_MS);
      if (!ready || this.#isClosed) continue;
      const socket = acceptSocket(descriptor);
      if (socket !== null) await this.#serveOne(socket);
    }
    this.#listener.close();
  }

  async #serveOne(socket: number): Promise<void> {
    const session = new BackEndSession(socket, this.#device, this.#onEvent);
    this.#session = session;
    this.#onEvent({ kind: "connected" });
    let ended: Error | null = null;
    try {
      await session.run();
    } catch (error) {
      if (!(error instanceof MigrationError)) throw error;
      ended = error;
    } finally {
      this.#session = null;
    }
    this.#onEvent({ kind: "disconnected", error: ended });
  }
}
