/**
 * Message socket: vhost-user messages, whole, over one unix socket.
 *
 * A message leaves in one sendmsg, its descriptors on its first byte: peers read
 * the header with room for descriptors and the payload without. It arrives as
 * the kernel cuts it, so reading polls off this thread and never blocks it. What
 * comes with a message belongs to whoever takes it; of a message that is refused
 * here every descriptor is closed here.
 *
 * Owns the socket. One reader at a time; writing never overlaps, for it is synchronous.
 */
import {
  closeDescriptor,
  pollReadable,
  receiveDescriptors,
  sendDescriptors,
  setSocketTimeout,
  shutdownSocket,
} from "@multifd/native";
import { ChannelError, ProtocolError } from "@multifd/protocol";
import { decodeVhostUserHeader, type VhostUserHeader, vhostUserHeader } from "./messages.js";

export type VhostUserMessage = VhostUserHeader & {
  readonly payload: Uint8Array;
  /** The reader's to close. */
  readonly descriptors: readonly number[];
};

/** One poll lasts no longer, so that a socket closed under it is noticed. */
const POLL_MS = 100;
/** A peer that does not even empty its socket's buffer for so long is gone. */
const SEND_TIMEOUT_MS = 2000;
/** What the kernel's own reading takes at once; a message that bears more than it should is told by count. */
const DESCRIPTORS_MAX = 64;

export class MessageSocket {
  /** For messages: `back-end at /run/a.sock`. */
  readonly name: string;
  readonly #descriptor: number;
  #isOpen = true;

  /** @param descriptor  A connected unix socket, owned from here on. */
  constructor(descriptor: number, name: string) {
    this.#descriptor = descriptor;
    this.name = name;
    setSocketTimeout(descriptor, SEND_TIMEOUT_MS);
  }

  get isOpen(): boolean {
    return this.#isOpen;
  }

  /** For polling it together with others; reads nothing. */
  get descriptor(): number {
    return this.#descriptor;
  }

  /**
   * Writes one message.
   *
   * @param descriptors  Stay the caller's, and open.
   * @throws {ChannelError} VHOST_CLOSED, CHANNEL_TIMEOUT.
   */
  send(message: Uint8Array, descriptors: readonly number[]): void {
    if (!this.#isOpen) throw this.#closed("the connection is closed");
    orClosed(() => sendDescriptors(this.#descriptor, message, descriptors));
  }

  /**
   * Reads one message.
   *
   * @param deadlineMs  By `performance.now()`; infinite to wait for ever.
   * @param doing       What for, in errors.
   * @returns null where the stream ended before its first byte.
   * @throws {ChannelError} VHOST_TIMEOUT, VHOST_CLOSED; {ProtocolError} VHOST_VERSION, VHOST_SIZE,
   *   VHOST_DESCRIPTORS.
   */
  async receive(deadlineMs: number, doing: string): Promise<VhostUserMessage | null> {
    const descriptors: number[] = [];
    try {
      const head = new Uint8Array(vhostUserHeader.size);
      if (!(await this.#fill(head, descriptors, deadlineMs, doing))) return null;
      const header = decodeVhostUserHeader(head);
      const payload = new Uint8Array(header.bytes);
      const withHeader = descriptors.length;
      if (header.bytes > 0 && !(await this.#fill(payload, descriptors, deadlineMs, doing))) {
        throw this.#closed(`the connection ended inside a message, ${doing}`);
      }
      if (descriptors.length > withHeader) {
        throw new ProtocolError(
          "VHOST_DESCRIPTORS",
          `${doing}: descriptors came with a payload; they belong on the header`,
        );
      }
      return { ...header, payload, descriptors: descriptors.splice(0) };
    } finally {
      for (const descriptor of descriptors) closeDescriptor(descriptor);
    }
  }

  /** Whoever waits in `receive` is told within a moment. Idempotent. */
  close(): void {
    if (this.#isOpen) shutdownSocket(this.#descriptor);
    this.leave();
  }

  /** Gives up our descriptor of the connection; it stands as long as another process has one. Idempotent. */
  leave(): void {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    closeDescriptor(this.#descriptor);
  }

  /** @returns false where the stream ended before the first byte. */
  async #fill(out: Uint8Array, descriptors: number[], deadlineMs: number, doing: string): Promise<boolean> {
    let filled = 0;
    while (filled < out.length) {
      await this.#readable(deadlineMs, doing);
      const got = orClosed(() => receiveDescriptors(this.#descriptor, out.subarray(filled), DESCRIPTORS_MAX));
      descriptors.push(...got.descriptors);
      if (got.bytes === 0 && filled === 0) return false;
      if (got.bytes === 0) throw this.#closed(`the connection ended inside a message, ${doing}`);
      filled += got.bytes;
    }
    return true;
  }

  async #readable(deadlineMs: number, doing: string): Promise<void> {
    for (;;) {
      if (!this.#isOpen) throw this.#closed(`the connection was closed here, ${doing}`);
      const leftMs = deadlineMs - performance.now();
      const [ready] = await pollReadable([this.#descriptor], Math.max(0, Math.min(POLL_MS, Math.ceil(leftMs))));
      if (!this.#isOpen) continue; // that number may be somebody else's by now
      if (ready) return;
      if (leftMs <= 0) {
        throw new ChannelError("VHOST_TIMEOUT", `${doing}: nothing came within the time allowed`);
      }
    }
  }

  #closed(what: string): ChannelError {
    return new ChannelError("VHOST_CLOSED", what);
  }
}

/** Whether a connection ends with its last byte, or with bytes nobody read, is the kernel's difference and not ours. */
function orClosed<Result>(act: () => Result): Result {
  try {
    return act();
  } catch (cause) {
    if (!(cause instanceof ChannelError) || cause.code !== "CHANNEL_BROKEN") throw cause;
    throw new ChannelError("VHOST_CLOSED", `the other end has closed the connection (${cause.message}); see its log`, {
      cause,
    });
  }
}
