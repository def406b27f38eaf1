/**
 * Guest socket: the control connection to a guest process.
 *
 * One line asks, one JSON line answers; `describe` comes first and carries the
 * descriptors of the guest's RAM, in block order. That message is received by a
 * native call once it is there, everything after it through Node's event loop: a
 * slow answer never holds up the coordinator.
 *
 * Owns the connection and the descriptors, both until `close`. The connection's
 * end changes nothing at the guest: a paused guest stays paused.
 * The commands: native/guest/control.c.
 */
import { Socket } from "node:net";
import { type Address, Channel, formatAddress } from "@multifd/channel";
import { closeDescriptor, pollReadable, receiveDescriptors, sendBytes, sendDescriptors } from "@multifd/native";
import { ChannelError, ConfigError, ProtocolError, SystemError } from "@multifd/protocol";
import { type GuestAnswer, type GuestDescription, parseDescription } from "./guest-description.js";
import { countDescriptors } from "./vhost-user/guest-devices.js";

const DESCRIPTORS_MAX = 64;
const ANSWER_BYTES_MAX = 65536;
const CONNECT_MS = 10_000;
/** Every command but `check` answers within milliseconds; a guest that does not is stuck. */
const ANSWER_MS = 10_000;
/** A check reads all RAM. */
const CHECK_MS = 600_000;
/** A guest process's state beside RAM. */
export const STATE_BYTES_MAX = 2 ** 20;
const NOTHING = new Uint8Array(0);

export type GuestStatus = {
  /** Since it first ran, wherever that was. */
  readonly pagesWritten: number;
  readonly running: boolean;
};

export type GuestVerdict = GuestStatus & {
  readonly pages: number;
  readonly stale: number;
  readonly corrupt: number;
  readonly firstBadPage: number | null;
};

/** A connection to a back-end, and what its front-end has agreed on. */
export type Connection = {
  readonly offered: bigint;
  readonly protocolFeatures: bigint;
  readonly descriptor: number;
};

type Waiter = {
  /** How many of the buffered bytes answer; null: more are needed. */
  readonly find: (buffered: Buffer) => number | null;
  readonly resolve: (bytes: Buffer) => void;
  readonly reject: (error: Error) => void;
};

export class GuestSocket {
  readonly description: GuestDescription;
  /** One per RAM block, in that order; behind them what `GuestDevice` names. */
  readonly descriptors: readonly number[];
  readonly #place: string;
  readonly #socket: Socket;
  readonly #descriptor: number;
  readonly #taken = new Set<number>();
  #buffered: Buffer = Buffer.alloc(0);
  #waiter: Waiter | null = null;
  #failure: Error | null = null;

  private constructor(
    place: string,
    descriptor: number,
    description: GuestDescription,
    descriptors: readonly number[],
  ) {
    this.#place = place;
    this.#descriptor = descriptor;
    this.description = description;
    this.descriptors = descriptors;
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

  /**
   * Connects and asks the guest what it is.
   *
   * @throws {ChannelError} GUEST_GONE; GUEST_TIMEOUT while another program holds the guest's one connection.
   * @throws {ProtocolError} GUEST_ANSWER, where this is no guest.
   */
  static async connect(address: Address): Promise<GuestSocket> {
    const place = `guest ${formatAddress(address)}`;
    if (address.kind !== "unix")
      throw new ConfigError("ADDRESS", `${place}: a guest is reached through unix:PATH only`);
    const channel = await connect(address, place);
    const descriptors: number[] = [];
    try {
      const description = await describe(channel.descriptor, place, descriptors);
      return new GuestSocket(place, channel.release(), description, descriptors);
    } catch (error) {
      for (const descriptor of descriptors) closeDescriptor(descriptor);
      channel.close();
      throw error;
    }
  }

  async pause(): Promise<void> {
    await this.#ask("pause");
  }

  async resume(): Promise<void> {
    await this.#ask("resume");
  }

  /** The paused guest's state beside RAM. */
  async save(): Promise<Uint8Array> {
    const answer = await this.#ask("save");
    const bytes = this.#number(answer, "bytes");
    if (bytes < 1 || bytes > STATE_BYTES_MAX) {
      throw new ProtocolError(
        "GUEST_ANSWER",
        `${this.#place}: a state of ${bytes} bytes; due were 1 to ${STATE_BYTES_MAX}`,
      );
    }
    return this.#receive((buffered) => (buffered.length >= bytes ? bytes : null), ANSWER_MS);
  }

  async load(state: Uint8Array): Promise<void> {
    await this.#ask(`load ${state.length}`, state);
  }

  /** Lets a loaded guest run. @returns The downtime that it measured, pause to first write. */
  async run(): Promise<{ downtimeMs: number }> {
    return { downtimeMs: this.#number(await this.#ask("run"), "downtimeNs") / 1e6 };
  }

  /** How far the guest has come; costs it nothing. */
  async status(): Promise<GuestStatus> {
    const answer = await this.#ask("status");
    return { pagesWritten: this.#number(answer, "pagesWritten"), running: answer.running === true };
  }

  /** Compares every page with what the guest knows it wrote. */
  async check(): Promise<GuestVerdict> {
    const answer = await this.#ask("check", NOTHING, CHECK_MS);
    const number = (name: keyof GuestAnswer) => this.#number(answer, name);
    return {
      pages: number("pages"),
      stale: number("stale"),
      corrupt: number("corrupt"),
      firstBadPage: answer.firstBadPage === null ? null : number("firstBadPage"),
      pagesWritten: number("pagesWritten"),
      running: answer.running === true,
    };
  }

  /** Gives the guest the connection to a device's back-end, to keep; our descriptor of it stays ours. */
  async adopt(device: string, connection: Connection): Promise<void> {
    const { offered, protocolFeatures, descriptor } = connection;
    const command = `adopt ${device} 0x${offered.toString(16)} 0x${protocolFeatures.toString(16)}\n`;
    await this.#answerTo("adopt", ANSWER_MS, () =>
      sendDescriptors(this.#descriptor, Buffer.from(command), [descriptor]),
    );
  }

  /** Bytes of RAM dirtied per second from now on. */
  async setRate(bytesPerSecond: number): Promise<void> {
    await this.#ask(`rate ${bytesPerSecond}`);
  }

  /** Ends the guest process. */
  async quit(): Promise<void> {
    await this.#ask("quit");
  }

  /** Hands one of the descriptors over to a new owner, who closes it. */
  take(at: number): number {
    this.#taken.add(at);
    return this.descriptors[at]!;
  }

  /** Gives connection and descriptors back; the guest stays as it is. */
  close(): void {
    if (this.#socket.destroyed) return;
    this.#failure ??= new ChannelError("GUEST_GONE", `${this.#place}: closed on our side`);
    this.#socket.destroy();
    for (const [at, descriptor] of this.descriptors.entries()) if (!this.#taken.has(at)) closeDescriptor(descriptor);
  }

  async #ask(command: string, payload: Uint8Array = NOTHING, timeoutMs = ANSWER_MS): Promise<GuestAnswer> {
    // In one piece: a guest that refuses the command closes, and a second write could lose its reason.
    const text = Buffer.concat([Buffer.from(`${command}\n`), payload]);
    return await this.#answerTo(command.split(" ")[0]!, timeoutMs, () => this.#socket.write(text));
  }

  async #answerTo(command: string, timeoutMs: number, send: () => void): Promise<GuestAnswer> {
    if (this.#failure) throw this.#failure;
    send();
    const line = await this.#receive(findLine, timeoutMs);
    return parseAnswer(line, `${this.#place}, ${command}`);
  }

  #number(answer: GuestAnswer, name: keyof GuestAnswer): number {
    const value = answer[name];
    if (typeof value === "number" && Number.isFinite(value)) return value;
    throw new ProtocolError("GUEST_ANSWER", `${this.#place}: an answer without the number "${name}"`);
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

async function connect(address: Address, place: string): Promise<Channel> {
  try {
    return await Channel.connect(address, CONNECT_MS);
  } catch (cause) {
    throw new ChannelError("GUEST_GONE", `${place}: nobody listens on its control socket; is the guest running?`, {
      cause,
    });
  }
}

/** Asks `describe` on the raw descriptor, where descriptors can be received; puts them into `descriptors`. */
async function describe(descriptor: number, place: string, descriptors: number[]): Promise<GuestDescription> {
  sendBytes(descriptor, Buffer.from("describe\n"));
  const [isReadable] = await pollReadable([descriptor], ANSWER_MS);
  if (!isReadable) {
    const text = `${place}: no answer within ${ANSWER_MS} ms; it serves one connection at a time, is another one open?`;
    throw new ChannelError("GUEST_TIMEOUT", text);
  }
  const line = Buffer.alloc(ANSWER_BYTES_MAX);
  const received = receiveDescriptors(descriptor, line, DESCRIPTORS_MAX);
  descriptors.push(...received.descriptors);
  const answer = parseAnswer(line.subarray(0, received.bytes), `${place}, describe`);
  const description = parseDescription(answer, place);
  const due = countDescriptors(description.blocks.length, description.devices);
  if (descriptors.length !== due) {
    const text = `${place}: ${descriptors.length} descriptors came with its description, ${due} were due`;
    throw new ProtocolError("GUEST_ANSWER", text);
  }
  return description;
}

function findLine(buffered: Buffer): number | null {
  const at = buffered.indexOf(0x0a);
  return at < 0 ? null : at + 1;
}

function parseAnswer(line: Uint8Array, place: string): GuestAnswer {
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
