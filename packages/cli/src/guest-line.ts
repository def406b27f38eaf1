/**
 * Guest line: questions to a guest process and its answers, one at a time.
 *
 * One line asks, one JSON line answers, and raw bytes may follow it. Everything
 * goes through Node's event loop, so a slow answer never holds up the coordinator.
 * Whatever ends the connection fails the question under way and every later one.
 *
 * Owns the connection, until `close`.
 */
import { Socket } from "node:net";
import { sendDescriptors } from "@multifd/native";
import { ChannelError, ProtocolError, SystemError } from "@multifd/protocol";
import type { GuestAnswer } from "./guest-description.js";

/** Every command but `check` answers within milliseconds; a guest that does not is stuck. */
export const ANSWER_MS = 10_000;
export const ANSWER_BYTES_MAX = 65536;
/** A guest process's state beside RAM. */
export const STATE_BYTES_MAX = 2 ** 20;
const NOTHING = new Uint8Array(0);

type Waiter = {
  /** How many of the buffered bytes answer; null: more are needed. */
  readonly find: (buffered: Buffer) => number | null;
  readonly resolve: (bytes: Buffer) => void;
  readonly reject: (error: Error) => void;
};

export class GuestLine {
  readonly #place: string;
  readonly #socket: Socket;
  readonly #descriptor: number;
  #buffered: Buffer = Buffer.alloc(0);
  #waiter: Waiter | null = null;
  #failure: Error | null = null;

  /**
   * @param place       For messages: `guest unix:/run/guest`.
   * @param descriptor  The connected socket, owned from here on.
   */
  constructor(place: string, descriptor: number) {
    this.#place = place;
    this.#descriptor = descriptor;
    this.#socket = new Socket({ fd: descriptor, readable: true, writable: true });
    this.#socket.on("data", (chunk: Buffer) => {
      this.#buffered = Buffer.concat([this.#buffered, chunk]);
      this.#settle();
    });
    this.#socket.on("error", (cause) =>
      this.#fail(new ChannelError("GUEST_GONE", `${place}: ${cause.message}`, { cause })),
    );
    this.#socket.on("close", () =>
      this.#fail(new ChannelError("GUEST_GONE", `${place}: the guest closed the connection`)),
    );
  }

  close(): void {
    this.#failure ??= new ChannelError("GUEST_GONE", `${this.#place}: closed on our side`);
    this.#socket.destroy();
  }

  /**
   * Asks one question. @param payload  Goes right behind the line.
   *
   * @throws {SystemError} GUEST_REFUSED; {ProtocolError} GUEST_ANSWER; {ChannelError} GUEST_GONE, GUEST_TIMEOUT.
   */
  async ask(command: string, payload: Uint8Array = NOTHING, timeoutMs = ANSWER_MS): Promise<GuestAnswer> {
    // In one piece: a guest that refuses the command closes, and a second write could lose its reason.
    const text = Buffer.concat([Buffer.from(`${command}\n`), payload]);
    return await this.#answerTo(command, timeoutMs, () => this.#socket.write(text));
  }

  /** Asks a question that a descriptor goes with; it stays the caller's. */
  async askWith(command: string, descriptor: number): Promise<GuestAnswer> {
    const text = Buffer.from(`${command}\n`);
    return await this.#answerTo(command, ANSWER_MS, () => sendDescriptors(this.#descriptor, text, [descriptor]));
  }

  /** The bytes that follow an answer. */
  takeBytes(bytes: number): Promise<Buffer> {
    return this.#receive((buffered) => (buffered.length >= bytes ? bytes : null), ANSWER_MS);
  }

  /** A number out of an answer. @throws {ProtocolError} GUEST_ANSWER, where it has none under that name. */
  numberIn(answer: GuestAnswer, name: keyof GuestAnswer): number {
    const value = answer[name];
    if (typeof value === "number" && Number.isFinite(value)) return value;
    throw new ProtocolError("GUEST_ANSWER", `${this.#place}: an answer without the number "${name}"`);
  }

  async #answerTo(command: string, timeoutMs: number, send: () => void): Promise<GuestAnswer> {
    if (this.#failure) throw this.#failure;
    send();
    const line = await this.#receive(findLine, timeoutMs);
    return parseAnswer(line, `${this.#place}, ${command.split(" ")[0]}`);
  }

  #receive(find: Waiter["find"], timeoutMs: number): Promise<Buffer> {
    if (this.#waiter) throw new Error("one question at a time");
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        const text = `${this.#place}: no answer within ${timeoutMs} ms; is the guest stopped by a debugger?`;
        this.#fail(new ChannelError("GUEST_TIMEOUT", text));
        this.#socket.destroy();
      }, timeoutMs);
      const end = () => {
        clearTimeout(timer);
        this.#waiter = null;
      };
      this.#waiter = {
        find,
        resolve: (bytes) => {
          end();
          resolve(bytes);
        },
        reject: (error) => {
          end();
          reject(error);
        },
      };
      this.#settle();
    });
  }

  #settle(): void {
    const length = this.#waiter?.find(this.#buffered) ?? null;
    if (length !== null) {
      const bytes = this.#buffered.subarray(0, length);
      this.#buffered = this.#buffered.subarray(length);
      this.#waiter?.resolve(bytes);
    } else if (this.#failure) {
      this.#waiter?.reject(this.#failure);
    } else if (this.#buffered.length > ANSWER_BYTES_MAX + STATE_BYTES_MAX) {
      this.#fail(new ProtocolError("GUEST_ANSWER", `${this.#place}: an answer without end`));
    }
  }

  #fail(error: Error): void {
    this.#failure ??= error;
    this.#waiter?.reject(this.#failure);
  }
}

function findLine(buffered: Buffer): number | null {
  const at = buffered.indexOf(0x0a);
  return at < 0 ? null : at + 1;
}

/** @throws {SystemError} GUEST_REFUSED; {ProtocolError} GUEST_ANSWER. */
export function parseAnswer(line: Uint8Array, place: string): GuestAnswer {
  let answer: unknown;
  try {
    answer = JSON.parse(Buffer.from(line).toString("utf8"));
  } catch (cause) {
    throw new ProtocolError("GUEST_ANSWER", `${place}: the answer is no JSON line; is this a guest's control socket?`, {
      cause,
    });
  }
  if (typeof answer !== "object" || answer === null) {
    throw new ProtocolError("GUEST_ANSWER", `${place}: the answer is no JSON object`);
  }
  const fields = answer as GuestAnswer;
  if (fields.ok === true) return fields;
  throw new SystemError("GUEST_REFUSED", `${place}: the guest refused: ${String(fields.error)}`);
}
