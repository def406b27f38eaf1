/**
 * State transfer: a back-end's own state, as a stream of bytes.
 *
 * One pipe, one direction: the back-end gets one end, ours is closed for it at
 * once, so that the end of the stream is seen; then the bytes, then the back-end's
 * verdict. Until the verdict is in, nothing that was read is worth anything. The
 * rings must be stopped: neither virtiofsd nor passt minds, and the state would be none.
 *
 *   save    SET_DEVICE_STATE_FD {0, 0} + write end │ read to the end │ CHECK_DEVICE_STATE
 *   load    SET_DEVICE_STATE_FD {1, 0} + read end  │ write, close    │ CHECK_DEVICE_STATE
 *
 * Node's own pipe streams do the moving, so no thread waits and a stall is a time-out.
 * Source: QEMU 11.1, docs/interop/vhost-user.rst, "Migrating back-end state".
 */
import { Socket } from "node:net";
import { closeDescriptor, createPipe } from "@multifd/native";
import { ChannelError, ProtocolError } from "@multifd/protocol";
import type { FrontEnd } from "./front-end.js";

export type StateTerms = {
  /** Without a byte moving for this long the transfer fails. */
  readonly stallTimeoutMs: number;
  /** A back-end that gives more is stopped. */
  readonly bytesMax: number;
};

export const DEFAULT_STATE_TERMS: StateTerms = { stallTimeoutMs: 10_000, bytesMax: 2 ** 36 };

/**
 * Reads a back-end's state. It is good only when the iteration has come to its end.
 *
 * @throws {ProtocolError} VHOST_STATE_REFUSED, VHOST_STATE_CHECK, VHOST_STATE_SIZE; {ChannelError} VHOST_STATE_STALLED,
 *   and what requests throw.
 */
export async function* saveState(
  frontEnd: FrontEnd,
  terms: StateTerms = DEFAULT_STATE_TERMS,
): AsyncGenerator<Uint8Array, void> {
  const pipe = await StatePipe.open(frontEnd, "save", terms.stallTimeoutMs);
  let bytes = 0;
  try {
    for (let chunk = await pipe.read(); chunk !== null; chunk = await pipe.read()) {
      bytes += chunk.length;
      if (bytes > terms.bytesMax) {
        throw new ProtocolError(
          "VHOST_STATE_SIZE",
          `${frontEnd.name}: more than ${terms.bytesMax} bytes of state came; raise the limit if they are meant`,
        );
      }
      yield chunk;
    }
  } finally {
    pipe.close();
  }
  await frontEnd.checkState();
}

/**
 * Gives a back-end its state. Where it stops reading early, its verdict still decides.
 *
 * When iterating `state` throws, so does this, and the back-end has seen an end too early: drop it.
 *
 * @throws {ProtocolError} VHOST_STATE_REFUSED, VHOST_STATE_CHECK; {ChannelError} VHOST_STATE_STALLED, and what requests throw.
 */
export async function loadState(
  frontEnd: FrontEnd,
  state: AsyncIterable<Uint8Array> | Iterable<Uint8Array>,
  terms: StateTerms = DEFAULT_STATE_TERMS,
): Promise<void> {
  const pipe = await StatePipe.open(frontEnd, "load", terms.stallTimeoutMs);
  try {
    for await (const chunk of state) {
      if (chunk.length > 0 && !(await pipe.write(chunk))) break;
    }
    await pipe.end();
  } finally {
    pipe.close();
  }
  await frontEnd.checkState();
}

/** Our end of the pipe. The clock runs only while the back-end is waited for. */
class StatePipe {
  readonly #stream: Socket;
  readonly #chunks: AsyncIterator<Buffer>;
  readonly #name: string;
  readonly #stallTimeoutMs: number;
  #failure: Error | null = null;

  private constructor(stream: Socket, name: string, stallTimeoutMs: number) {
    this.#stream = stream;
    this.#name = name;
    this.#stallTimeoutMs = stallTimeoutMs;
    stream.on("error", (error) => {
      this.#failure ??= error;
    });
    this.#chunks = stream[Symbol.asyncIterator]() as AsyncIterator<Buffer>;
  }

  static async open(frontEnd: FrontEnd, direction: "save" | "load", stallTimeoutMs: number): Promise<StatePipe> {
    const pipe = createPipe();
    const [ours, theirs] = direction === "save" ? [pipe.read, pipe.write] : [pipe.write, pipe.read];
    let instead: number | null;
    try {
      instead = await frontEnd.beginState(direction, theirs);
    } catch (error) {
      closeDescriptor(ours);
      throw error;
    } finally {
      closeDescriptor(theirs); // or the end of the stream would never be seen
    }
    if (instead !== null) closeDescriptor(ours);
    return new StatePipe(wrap(instead ?? ours, direction, frontEnd.name), frontEnd.name, stallTimeoutMs);
  }

  /** @returns null at the end. */
  async read(): Promise<Uint8Array | null> {
    const next = await this.#watched("reading its state", () => this.#chunks.next());
    return next.done ? null : next.value;
  }

  /** @returns false where nobody reads any more. */
  write(chunk: Uint8Array): Promise<boolean> {
    return this.#settled((done) => this.#stream.write(chunk, done));
  }

  end(): Promise<boolean> {
    return this.#settled((done) => this.#stream.end(done));
  }

  close(): void {
    this.#stream.destroy();
  }

  async #settled(act: (done: (error?: Error | null) => void) => void): Promise<boolean> {
    try {
      await this.#watched("giving it its state", async () => {
        if (this.#failure) throw this.#failure;
        await new Promise<void>((resolve, reject) => act((error) => (error ? reject(error) : resolve())));
      });
      return true;
    } catch (error) {
      if (((error as Error).cause as NodeJS.ErrnoException | undefined)?.code === "EPIPE") return false;
      throw error;
    }
  }

  async #watched<Result>(doing: string, act: () => Promise<Result>): Promise<Result> {
    const stalled = `${this.#name}, ${doing}: not a byte moved within ${this.#stallTimeoutMs} ms`;
    const timer = setTimeout(
      () => this.#stream.destroy(new ChannelError("VHOST_STATE_STALLED", stalled)),
      this.#stallTimeoutMs,
    );
    try {
      return await act();
    } catch (error) {
      const cause = this.#failure ?? (error as Error);
      if (cause instanceof ChannelError) throw cause;
      throw new ChannelError("CHANNEL_BROKEN", `${this.#name}, ${doing}: ${cause.message}`, { cause });
    } finally {
      clearTimeout(timer);
    }
  }
}

/** A stream over a pipe or socket, which it owns. */
function wrap(descriptor: number, direction: "save" | "load", name: string): Socket {
  try {
    return new Socket({ fd: descriptor, readable: direction === "save", writable: direction === "load" });
  } catch (cause) {
    closeDescriptor(descriptor);
    throw new ProtocolError(
      "VHOST_STATE_DESCRIPTOR",
      `${name}: the descriptor that it wants its state moved through is neither a pipe nor a socket`,
      { cause },
    );
  }
}
