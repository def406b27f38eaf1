/**
 * Request channel: the front-end's side of a connection, one request at a time.
 *
 * A reply bears nothing but the request's number, so the next request leaves only
 * when the one before it is answered. Messages without a reply of their own are
 * acknowledged where REPLY_ACK was agreed on, and all of them are asked for it then;
 * where it was not nothing comes back, and waiting would hang. Messages with
 * their own reply never ask: libvhost-user would answer with flags that QEMU itself refuses.
 *
 * Whatever breaks the protocol or the link closes the connection, and every
 * later request fails with what broke it; a refusal by acknowledgement does not.
 *
 * Owns the socket.
 */
import { closeDescriptor } from "@multifd/native";
import { ChannelError, ProtocolError, placeError } from "@multifd/protocol";
import { MessageSocket, type VhostUserMessage } from "./message-socket.js";
import {
  decodeNumber,
  encodeVhostUserMessage,
  isWithin,
  type RequestName,
  type RequestShape,
  requestIds2023,
  type Span,
  sayingOf,
  vhostUserRequests,
} from "./messages.js";

export type Reply = {
  readonly payload: Uint8Array;
  /** The caller's to close. */
  readonly descriptors: readonly number[];
};

export class RequestChannel {
  readonly #socket: MessageSocket;
  readonly #replyTimeoutMs: number;
  #previous: Promise<unknown> = Promise.resolve();
  #broken: Error | null = null;
  #acknowledges = false;
  #numbers2023 = false;

  /** @param descriptor  A connected unix socket, owned from here on. */
  constructor(descriptor: number, name: string, replyTimeoutMs: number) {
    this.#socket = new MessageSocket(descriptor, name);
    this.#replyTimeoutMs = replyTimeoutMs;
  }

  get name(): string {
    return this.#socket.name;
  }

  /** Whether requests may still be made. */
  get isOpen(): boolean {
    return this.#socket.isOpen;
  }

  /** REPLY_ACK was agreed on: every message is answered from here on. */
  expectAcknowledgements(): void {
    this.#acknowledges = true;
  }

  /** Bit 17 of the proposal of 2023 was agreed on: its numbers hold. */
  useNumbersOf2023(): void {
    this.#numbers2023 = true;
  }

  /**
   * Sends one request and waits for what answers it.
   *
   * @param descriptors  Stay the caller's, and open.
   * @throws {ChannelError} VHOST_CLOSED, VHOST_TIMEOUT, CHANNEL_TIMEOUT; {ProtocolError} VHOST_REPLY, VHOST_SIZE,
   *   VHOST_VERSION, VHOST_DESCRIPTORS, and VHOST_REFUSED for an acknowledgement that is not 0.
   */
  request(name: RequestName, payload: Uint8Array, descriptors: readonly number[] = []): Promise<Reply> {
    const answer = this.#previous.then(() => this.#exchange(name, payload, descriptors));
    this.#previous = answer.catch(() => {}); // told to whoever asked
    return answer;
  }

  /** For passing the connection on. */
  get descriptor(): number {
    return this.#socket.descriptor;
  }

  /** Ends our use of a connection that another process has, too. */
  leave(): void {
    this.#broken ??= new ChannelError("VHOST_CLOSED", `${this.name}: the connection is another process's now`);
    this.#socket.leave();
  }

  close(): void {
    this.#broken ??= new ChannelError("VHOST_CLOSED", `${this.name}: the connection was closed here`);
    this.#socket.close();
  }

  async #exchange(name: RequestName, payload: Uint8Array, descriptors: readonly number[]): Promise<Reply> {
    if (this.#broken) throw this.#broken;
    const shape: RequestShape = vhostUserRequests[name];
    const id = (this.#numbers2023 && requestIds2023[name]) || shape.id;
    const acknowledged = shape.reply === null && this.#acknowledges;
    const message = encodeVhostUserMessage(id, acknowledged ? "acknowledged-request" : "request", payload);
    let reply: VhostUserMessage | null = null;
    try {
      this.#socket.send(message, descriptors);
      if (shape.reply === null && !acknowledged) return { payload: new Uint8Array(0), descriptors: [] };
      reply = await this.#socket.receive(performance.now() + this.#replyTimeoutMs, `waiting for the reply to ${name}`);
      if (reply === null) throw this.#closedInstead(name);
      checkReply(reply, id, shape);
    } catch (error) {
      for (const descriptor of reply?.descriptors ?? []) closeDescriptor(descriptor);
      this.#broken ??= placeError(error, `${this.name}, ${name}`) as Error;
      this.#socket.close();
      throw this.#broken;
    }
    if (acknowledged) this.#checkAcknowledgement(name, reply.payload);
    return reply;
  }

  #checkAcknowledgement(name: RequestName, payload: Uint8Array): void {
    const value = decodeNumber(payload);
    if (value === 0n) return;
    throw new ProtocolError(
      "VHOST_REFUSED",
      `${this.name} refuses ${name} with 0x${value.toString(16)}, 0 was due; see its log`,
    );
  }

  #closedInstead(name: RequestName): ChannelError {
    return new ChannelError(
      "VHOST_CLOSED",
      `the connection ended instead of an answer; the back-end refuses ${name}, or is gone: see its log`,
    );
  }
}

const acknowledgement: Span = [8, 8];

/** Holds a reply to its request: its number, its flags, its size, what came beside it. */
function checkReply(reply: VhostUserMessage, id: number, shape: RequestShape): void {
  if (reply.id !== id || !reply.isReply) {
    const kind = reply.isReply ? "a reply" : "a request";
    throw new ProtocolError("VHOST_REPLY", `${kind} of number ${reply.id} came, a reply to ${id} was due`);
  }
  const due = shape.reply ?? acknowledgement;
  if (!isWithin(reply.payload.length, due)) {
    throw new ProtocolError("VHOST_SIZE", `a reply of ${reply.payload.length} bytes came, ${sayingOf(due)} were due`);
  }
  const { length } = reply.descriptors;
  if (isWithin(length, shape.replyDescriptors)) return;
  throw new ProtocolError(
    "VHOST_DESCRIPTORS",
    `${length} descriptors came with the reply, ${sayingOf(shape.replyDescriptors)} were due`,
  );
}
