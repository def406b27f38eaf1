/**
 * Back-end session: one front-end's connection, from its first message to its end.
 *
 * Messages and kicks are polled together and handled one by one, so that a device
 * sees a ring only between messages. A request that is malformed ends the session;
 * one that makes no sense here and now is refused by acknowledgement, where one was
 * asked for, and else ends the session too: silence would be taken for consent.
 *
 * What a request does stands in `back-end-requests.ts`.
 *
 * Owns the connection and what requests have built; all of it is gone when `run` settles.
 * Source: QEMU 11.1, docs/interop/vhost-user.rst, "Back-end".
 */
import { closeDescriptor, pollReadable, takeEvent } from "@multifd/native";
import { MigrationError, ProtocolError } from "@multifd/protocol";
import type { BackEndDevice } from "./back-end-device.js";
import { BackEndRequests } from "./back-end-requests.js";
import { MessageSocket, type VhostUserMessage } from "./message-socket.js";
import {
  encodeNumber,
  encodeVhostUserMessage,
  isWithin,
  type RequestName,
  type RequestShape,
  sayingOf,
  vhostUserRequests,
} from "./messages.js";

/** One poll lasts no longer, so that closing is noticed. */
const POLL_MS = 100;
/** From a message's first byte to its last. */
const MESSAGE_MS = 5000;

const REFUSED = encodeNumber(1n);
const ACCEPTED = encodeNumber(0n);
const requestOf = new Map<number, RequestName>(
  Object.entries(vhostUserRequests).map(([name, { id }]) => [id, name as RequestName]),
);

/** What a session is doing, for whoever watches. */
export type SessionEvent =
  | { readonly kind: "refused"; readonly request: string; readonly error: Error }
  | { readonly kind: "state-failed"; readonly error: Error };

export class BackEndSession {
  readonly #socket: MessageSocket;
  readonly #device: BackEndDevice;
  readonly #onEvent: (event: SessionEvent) => void;
  readonly #requests: BackEndRequests;

  /** @param descriptor  The front-end's socket, owned from here on. */
  constructor(descriptor: number, device: BackEndDevice, onEvent: (event: SessionEvent) => void) {
    this.#socket = new MessageSocket(descriptor, "front-end");
    this.#device = device;
    this.#onEvent = onEvent;
    this.#requests = new BackEndRequests(device, (error) => onEvent({ kind: "state-failed", error }));
  }

  /**
   * Serves until the front-end goes, which is no error, or breaks the protocol.
   *
   * @throws {ProtocolError | ChannelError | SystemError} what ended it.
   */
  async run(): Promise<void> {
    try {
      while (await this.#step());
    } finally {
      this.#socket.close();
      await this.#requests.close();
    }
  }

  /** Ends the session within a moment. */
  close(): void {
    this.#socket.close();
  }

  /** @returns false when the front-end has gone. */
  async #step(): Promise<boolean> {
    const kicked = this.#requests.queues.filter((queue) => queue.kick !== null);
    const ready = await pollReadable([this.#socket.descriptor, ...kicked.map((queue) => queue.kick!)], POLL_MS);
    if (!this.#socket.isOpen) return false; // closed here
    for (const [at, queue] of kicked.entries()) {
      if (!ready[at + 1]) continue;
      takeEvent(queue.kick!);
      this.#device.serve(queue);
    }
    if (!ready[0]) return true;
    const message = await this.#socket.receive(performance.now() + MESSAGE_MS, "waiting for the rest of a message");
    if (message === null) return false;
    await this.#handle(message);
    return true;
  }

  async #handle(message: VhostUserMessage): Promise<void> {
    const descriptors = [...message.descriptors];
    try {
      const name = requestOf.get(message.id);
      if (name === undefined || message.isReply) {
        throw new ProtocolError("VHOST_REQUEST", `request ${message.id} came, which this back-end does not know`);
      }
      const shape: RequestShape = vhostUserRequests[name];
      checkShape(message, name, shape);
      await this.#answer(message, name, shape, descriptors);
    } finally {
      for (const descriptor of descriptors) closeDescriptor(descriptor); // nobody has taken these
    }
  }

  /** @param descriptors  Whoever uses one takes it out. */
  async #answer(
    message: VhostUserMessage,
    name: RequestName,
    shape: RequestShape,
    descriptors: number[],
  ): Promise<void> {
    const asked = message.needsReply && this.#requests.acknowledges;
    let reply: Uint8Array;
    try {
      reply = (await this.#requests.act(name, message.payload, descriptors)) ?? ACCEPTED;
    } catch (error) {
      if (!(error instanceof MigrationError) || shape.reply !== null || !asked) throw error;
      this.#onEvent({ kind: "refused", request: name, error });
      reply = REFUSED;
    }
    if (shape.reply === null && !asked) return;
    this.#socket.send(encodeVhostUserMessage(message.id, "reply", reply), []);
  }
}

function checkShape({ payload, descriptors }: VhostUserMessage, name: RequestName, shape: RequestShape): void {
  if (!isWithin(payload.length, shape.bytes)) {
    throw new ProtocolError(
      "VHOST_SIZE",
      `${name} came with ${payload.length} bytes, ${sayingOf(shape.bytes)} were due`,
    );
  }
  if (isWithin(descriptors.length, shape.descriptors)) return;
  throw new ProtocolError(
    "VHOST_DESCRIPTORS",
    `${name} came with ${descriptors.length} descriptors, ${sayingOf(shape.descriptors)} were due`,
  );
}
