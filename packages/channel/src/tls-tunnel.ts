/**
 * TLS tunnel: what the coordinator knows of one connection that the TLS thread carries.
 *
 * The thread's news move it on: handshake, secured, ended. What ended it first
 * counts; later words are its echo.
 */
import { ChannelError } from "@multifd/protocol";

export class TlsTunnel {
  /** Resolves when the handshake is done. Rejects with what prevented it. */
  readonly secured: Promise<void>;
  readonly #ended: Promise<Error | null>;
  readonly #leave: () => void;
  #state: "handshake" | "secured" = "handshake";
  #markSecured: () => void = () => {};
  #markEnded: (reason: Error | null) => void = () => {};

  /** @param leave  Tells the thread that nobody is here any more. */
  constructor(leave: () => void) {
    this.#leave = leave;
    this.#ended = new Promise((resolve) => {
      this.#markEnded = resolve;
    });
    this.secured = new Promise((resolve, reject) => {
      this.#markSecured = resolve;
      this.#ended.then((reason) =>
        reject(reason ?? new ChannelError("TLS_HANDSHAKE", "given up in the TLS handshake")),
      );
    });
    this.secured.catch(() => {}); // a listening side asks `reason` instead
  }

  get state(): "handshake" | "secured" {
    return this.#state;
  }

  /** The handshake is done. */
  open(): void {
    this.#state = "secured";
    this.#markSecured();
  }

  /** The peer sends no more. */
  end(reason: Error | null): void {
    this.#markEnded(reason);
  }

  /** Why the stream ended; null where the peer simply closed, or nothing is known within `timeoutMs`. */
  async reason(timeoutMs: number): Promise<Error | null> {
    let timer: NodeJS.Timeout | undefined;
    const timeout = new Promise<null>((resolve) => {
      timer = setTimeout(resolve, timeoutMs, null);
    });
    try {
      return await Promise.race([this.#ended, timeout]);
    } finally {
      clearTimeout(timer);
    }
  }

  /** Nothing more is wanted from it here: what follows is our own doing and no reason. */
  leave(): void {
    this.#leave();
    this.end(null);
  }
}
