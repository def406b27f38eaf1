/**
 * Main channel: the one that carries control, both ways, on the coordinator thread.
 *
 * Unlike the packet channels it is event driven: the coordinator parses it while
 * it watches the workers. Reading is a `ByteSource` with back-pressure; writing
 * resolves when the kernel has taken the bytes, so whoever awaits it cannot run
 * ahead of a slow peer. Owns its descriptor from construction to `destroy`.
 */
import { Socket } from "node:net";
import { ChannelError, ChunkSource } from "@multifd/protocol";
import type { Channel } from "./channel.js";

export class MainChannel {
  readonly source: ChunkSource;
  readonly #channel: Channel;
  readonly #socket: Socket;
  #failure: ChannelError | null = null;

  /** Takes the descriptor over. */
  constructor(channel: Channel) {
    this.#channel = channel;
    this.#socket = new Socket({ fd: channel.release(), readable: true, writable: true, allowHalfOpen: true });
    // Remembered for the next read or write: an 'error' event nobody waits for must not end the process.
    this.#socket.on("error", (cause: NodeJS.ErrnoException) => {
      this.#failure ??= new ChannelError("CHANNEL_BROKEN", `main channel: ${cause.message}`, { cause });
    });
    this.source = new ChunkSource(this.#chunks());
  }

  /** Bytes that have crossed, both ways. */
  get wireBytes(): number {
    return this.#socket.bytesRead + this.#socket.bytesWritten;
  }

  /**
   * Writes `bytes`, all of them.
   *
   * @throws {ChannelError} CHANNEL_BROKEN, when the peer is gone; or why TLS ended.
   */
  async write(bytes: Uint8Array): Promise<void> {
    try {
      await this.#send(bytes);
    } catch (error) {
      throw await this.#channel.explain(error);
    }
  }

  #send(bytes: Uint8Array): Promise<void> {
    return new Promise((resolve, reject) => {
      if (this.#failure || this.#socket.destroyed) {
        reject(this.#failure ?? new ChannelError("CHANNEL_BROKEN", "main channel: closed"));
        return;
      }
      this.#socket.write(bytes, (cause) => {
        if (!cause) resolve();
        else reject(new ChannelError("CHANNEL_BROKEN", `main channel: ${cause.message}`, { cause }));
      });
    });
  }

  /** Sends what is queued, then end of file; reading goes on. */
  end(): Promise<void> {
    return new Promise((resolve) => {
      if (this.#socket.destroyed) resolve();
      else this.#socket.end(() => resolve());
    });
  }

  /**
   * Reads on and forgets, until the peer closes or `timeoutMs` has passed: a socket
   * closed with bytes unread is reset, and a reset may overtake our own last word.
   *
   * @throws {ChannelError} CHANNEL_BROKEN, when the peer leaves with bytes of ours unread.
   */
  async drain(timeoutMs: number): Promise<void> {
    const socket = this.#socket;
    if (!socket.destroyed && !socket.readableEnded) {
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, timeoutMs);
        const done = () => {
          clearTimeout(timer);
          resolve();
        };
        socket.removeAllListeners("readable");
        socket.once("end", done);
        socket.once("close", done);
        socket.on("data", () => {});
        socket.resume();
      });
    }
    if (this.#failure !== null) throw await this.#channel.explain(this.#failure);
  }

  /** Gives everything up at once. */
  destroy(): void {
    this.#channel.shutDown();
    this.#socket.destroy();
  }

  async *#chunks(): AsyncGenerator<Uint8Array> {
    try {
      for await (const chunk of this.#socket.iterator({ destroyOnReturn: false })) yield chunk as Uint8Array;
    } catch (cause) {
      throw await this.#channel.explain(
        new ChannelError("CHANNEL_BROKEN", `main channel: ${(cause as Error).message}`, { cause }),
      );
    }
    const reason = await this.#channel.explain(null);
    if (reason !== null) throw reason;
  }
}
