/**
 * TLS pump: turns connected sockets into channels whose bytes cross encrypted.
 *
 *   channel thread ══ pair ══ TLS thread ══ socket ══ peer
 *
 * The channel threads go on doing blocking I/O in C on one end of a pair; one
 * thread serves the other ends through Node's `tls`. That costs a copy and a
 * hop per byte, and keeps one hot path for both kinds of channels.
 *
 * Owns the thread, which holds the process until its last connection has said
 * goodbye: a destination of QEMU 10 takes a channel that ends without
 * close_notify for a broken one.
 */
import { Worker } from "node:worker_threads";
import { socketPair } from "@multifd/native";
import { reviveError, SystemError } from "@multifd/protocol";
import { Channel } from "./channel.js";
import type { TlsNews, TlsOrder } from "./tls-messages.js";
import type { TlsTerms } from "./tls-terms.js";
import { TlsTunnel } from "./tls-tunnel.js";

export class TlsPump {
  readonly #thread: Worker;
  readonly #tunnels = new Map<number, TlsTunnel>();
  #connections = 0;
  #ending = false;

  /** Starts the thread; call `end`, or the process never ends. */
  constructor(terms: TlsTerms) {
    this.#thread = new Worker(new URL("./tls-thread.js", import.meta.url), { workerData: terms });
    this.#thread.on("message", (news: TlsNews) => this.#hear(news));
    this.#thread.once("error", (cause) => {
      const { message } = cause as Error;
      this.#endAll(new SystemError("TLS_THREAD", `the TLS thread ended: ${message}`, { cause }));
    });
    this.#thread.once("exit", () => this.#endAll(null));
  }

  /**
   * Puts TLS on a socket.
   *
   * @param socket     Connected, nothing sent or received yet; not the caller's any more.
   * @param timeoutMs  For the handshake; 0 where the caller watches the clock.
   * @returns The plain end, at once; nothing crosses before the handshake is done.
   */
  secure(socket: Channel, timeoutMs: number): Channel {
    const [near, plain] = socketPair();
    const connection = this.#connections++;
    const tunnel = new TlsTunnel(() => this.#order({ kind: "leave", connection }));
    this.#tunnels.set(connection, tunnel);
    this.#order({ kind: "carry", connection, socket: socket.release(), plain, timeoutMs });
    return new Channel(near, tunnel);
  }

  /** No more sockets come; those that are there go on. Idempotent. */
  end(): void {
    if (this.#ending) return;
    this.#ending = true;
    this.#order({ kind: "end" });
  }

  #order(order: TlsOrder): void {
    this.#thread.postMessage(order);
  }

  #hear(news: TlsNews): void {
    const tunnel = this.#tunnels.get(news.connection);
    switch (news.kind) {
      case "secured":
        tunnel?.open();
        break;
      case "ended":
        this.#tunnels.delete(news.connection);
        tunnel?.end(news.error === null ? null : reviveError(news.error));
        break;
    }
  }

  #endAll(reason: Error | null): void {
    for (const tunnel of this.#tunnels.values()) tunnel.end(reason);
  }
}
