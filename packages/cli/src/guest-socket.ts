/**
 * Guest socket: the control connection to a guest process.
 *
 * `describe` comes first and carries the descriptors of the guest's RAM, in block
 * order. That message is received by a native call once it is there, everything
 * after it through the guest's line.
 *
 * Owns the connection and the descriptors, both until `close`. The connection's
 * end changes nothing at the guest: a paused guest stays paused.
 * The commands: native/guest/control.c.
 */
import { type Address, Channel, formatAddress } from "@multifd/channel";
import { closeDescriptor, pollReadable, receiveDescriptors, sendBytes } from "@multifd/native";
import { ChannelError, ConfigError, ProtocolError } from "@multifd/protocol";
import { type GuestAnswer, type GuestDescription, parseDescription } from "./guest-description.js";
import { ANSWER_BYTES_MAX, ANSWER_MS, GuestLine, parseAnswer, STATE_BYTES_MAX } from "./guest-line.js";
import { countDescriptors } from "./vhost-user/guest-devices.js";

const DESCRIPTORS_MAX = 64;
const CONNECT_MS = 10_000;
/** A check reads all RAM. */
const CHECK_MS = 600_000;

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

export class GuestSocket {
  readonly description: GuestDescription;
  /** One per RAM block, in that order; behind them what `GuestDevice` names. */
  readonly descriptors: readonly number[];
  readonly #place: string;
  readonly #line: GuestLine;
  readonly #taken = new Set<number>();
  #isClosed = false;

  private constructor(
    place: string,
    descriptor: number,
    description: GuestDescription,
    descriptors: readonly number[],
  ) {
    this.#place = place;
    this.#line = new GuestLine(place, descriptor);
    this.description = description;
    this.descriptors = descriptors;
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
    await this.#line.ask("pause");
  }

  async resume(): Promise<void> {
    await this.#line.ask("resume");
  }

  /** The paused guest's state beside RAM. */
  async save(): Promise<Uint8Array> {
    const answer = await this.#line.ask("save");
    const bytes = this.#line.numberIn(answer, "bytes");
    if (bytes < 1 || bytes > STATE_BYTES_MAX) {
      throw new ProtocolError(
        "GUEST_ANSWER",
        `${this.#place}: a state of ${bytes} bytes; due were 1 to ${STATE_BYTES_MAX}`,
      );
    }
    return this.#line.takeBytes(bytes);
  }

  async load(state: Uint8Array): Promise<void> {
    await this.#line.ask(`load ${state.length}`, state);
  }

  /** Lets a loaded guest run. @returns The downtime that it measured, pause to first write. */
  async run(): Promise<{ downtimeMs: number }> {
    return { downtimeMs: this.#line.numberIn(await this.#line.ask("run"), "downtimeNs") / 1e6 };
  }

  /** How far the guest has come; costs it nothing. */
  async status(): Promise<GuestStatus> {
    const answer = await this.#line.ask("status");
    return { pagesWritten: this.#line.numberIn(answer, "pagesWritten"), running: answer.running === true };
  }

  /** Compares every page with what the guest knows it wrote. */
  async check(): Promise<GuestVerdict> {
    const answer = await this.#line.ask("check", undefined, CHECK_MS);
    const number = (name: keyof GuestAnswer) => this.#line.numberIn(answer, name);
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
    const command = `adopt ${device} 0x${offered.toString(16)} 0x${protocolFeatures.toString(16)}`;
    await this.#line.askWith(command, descriptor);
  }

  /** Bytes of RAM dirtied per second from now on. */
  async setRate(bytesPerSecond: number): Promise<void> {
    await this.#line.ask(`rate ${bytesPerSecond}`);
  }

  /** Ends the guest process. */
  async quit(): Promise<void> {
    await this.#line.ask("quit");
  }

  /** Hands one of the descriptors over to a new owner, who closes it. */
  take(at: number): number {
    this.#taken.add(at);
    return this.descriptors[at]!;
  }

  /** Gives connection and descriptors back; the guest stays as it is. Idempotent. */
  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#line.close();
    for (const [at, descriptor] of this.descriptors.entries()) if (!this.#taken.has(at)) closeDescriptor(descriptor);
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
