/**
 * Front-end: one back-end, spoken to in typed requests.
 *
 * A table of requests more than a state: what may be asked is known from the
 * negotiation, and each request's answer is checked where it is asked.
 *
 * Owns the connection; descriptors handed in stay the caller's, those handed out become the caller's.
 * Source: QEMU 11.1, docs/interop/vhost-user.rst, "Front-end message types".
 */
import { closeDescriptor, connectSocket } from "@multifd/native";
import { ConfigError, ProtocolError } from "@multifd/protocol";
import { bitsOf, deviceFeature, hasBit, type ProtocolFeature } from "./features.js";
import { MemoryRequests } from "./memory-requests.js";
import {
  configHead,
  decodeNumber,
  deviceStateDirection,
  encodeNumber,
  inflightDescription,
  NO_PAYLOAD,
  STATE_PHASE_STOPPED,
  stateDirection,
} from "./messages.js";
import { type Negotiated, NegotiatedChannel } from "./negotiated-channel.js";
import { RequestChannel } from "./request-channel.js";
import { RingRequests } from "./ring-requests.js";

export type FrontEndTerms = {
  /** Path of the back-end's unix socket; a leading "@" names the abstract space. */
  readonly path: string;
  readonly connectTimeoutMs: number;
  /** For every single reply. A back-end that drains its rings answers GET_VRING_BASE late. */
  readonly replyTimeoutMs: number;
  /**
   * Take protocol feature 17 for the device-state transfer of the 2023 proposal, with its numbers. Only for a
   * back-end known to mean that: others mean Xen by it, and nothing on the wire tells the two apart.
   */
  readonly deviceState2023?: boolean;
};

/** What the specification gives a device's configuration. */
const CONFIG_BYTES_MAX = 256;

export type Inflight = {
  readonly lengthBytes: number;
  readonly offsetBytes: number;
  readonly queues: number;
  readonly queueSize: number;
};

export class FrontEnd {
  /** What concerns its rings. */
  readonly rings: RingRequests;
  /** What concerns guest memory and the log of its dirty pages. */
  readonly memory: MemoryRequests;
  readonly #agreed: NegotiatedChannel;
  readonly #channel: RequestChannel;
  #acknowledged: bigint;

  /** @param acknowledged  Device features that hold. */
  private constructor(agreed: NegotiatedChannel, acknowledged: bigint) {
    this.#agreed = agreed;
    this.#channel = agreed.channel;
    this.#acknowledged = acknowledged;
    this.memory = new MemoryRequests(agreed);
    this.rings = new RingRequests(agreed.channel, () => hasBit(this.#acknowledged, deviceFeature.protocolFeatures));
  }

  /**
   * Connects, negotiates protocol features, and takes the device.
   *
   * @throws {ChannelError} CONNECT_FAILED, and what requests throw; {ConfigError} VHOST_NOT_OFFERED.
   */
  static async connect(terms: FrontEndTerms): Promise<FrontEnd> {
    const { path, connectTimeoutMs, replyTimeoutMs } = terms;
    const descriptor = await connectSocket({ family: 1, path }, connectTimeoutMs);
    return await FrontEnd.over(descriptor, `back-end at ${path}`, { ...terms, replyTimeoutMs });
  }

  /** The same over a socket that is connected already, and owned from here on. */
  static async over(
    descriptor: number,
    name: string,
    terms: Pick<FrontEndTerms, "replyTimeoutMs" | "deviceState2023">,
  ): Promise<FrontEnd> {
    const channel = new RequestChannel(descriptor, name, terms.replyTimeoutMs);
    try {
      return new FrontEnd(await NegotiatedChannel.negotiate(channel, terms.deviceState2023 === true), 0n);
    } catch (error) {
      channel.close();
      throw error;
    }
  }

  /**
   * Goes on where another process was with the same connection: nothing is negotiated again, for back-ends close on it.
   *
   * @param descriptor    Owned from here on; the other process does not use its own meanwhile.
   * @param negotiated    As a front-end of ours has told it.
   * @param acknowledged  Device features that hold.
   */
  static takeOver(
    descriptor: number,
    name: string,
    negotiated: Negotiated,
    acknowledged: bigint,
    replyTimeoutMs: number,
  ): FrontEnd {
    const channel = new RequestChannel(descriptor, name, replyTimeoutMs);
    return new FrontEnd(new NegotiatedChannel(channel, negotiated), acknowledged);
  }

  /** The connection, for passing it on; stays ours. */
  get descriptor(): number {
    return this.#channel.descriptor;
  }

  /** Ends our use of a connection that another process has, too. Idempotent. */
  leave(): void {
    this.#channel.leave();
  }

  get name(): string {
    return this.#channel.name;
  }

  /** Whether the connection stands. */
  get isOpen(): boolean {
    return this.#channel.isOpen;
  }

  /** Device features that the back-end offers. */
  get offered(): bigint {
    return this.#agreed.offered;
  }

  /** Protocol features agreed on. */
  get protocolFeatures(): bigint {
    return this.#agreed.protocolFeatures;
  }

  /** Device features as last set. */
  get acknowledged(): bigint {
    return this.#acknowledged;
  }

  has(feature: ProtocolFeature): boolean {
    return this.#agreed.has(feature);
  }

  /** Whether its state can be saved and loaded. */
  get movesState(): boolean {
    return this.has("deviceState") || this.has("deviceState2023");
  }

  /** @throws {ConfigError} VHOST_NOT_OFFERED, if a bit is not offered: back-ends drop whoever sets one. */
  async setFeatures(features: bigint): Promise<void> {
    const surplus = features & ~this.offered;
    if (surplus !== 0n) {
      throw new ConfigError(
        "VHOST_NOT_OFFERED",
        `${this.name}: device features ${bitsOf(surplus).join(", ")} are not offered; both back-ends must offer what the guest has agreed on`,
      );
    }
    await this.#channel.request("SET_FEATURES", encodeNumber(features));
    this.#acknowledged = features;
  }

  /** Rings that the back-end serves at most. */
  async queueCount(): Promise<number> {
    this.#agreed.need("queues", "counting queues");
    return Number(decodeNumber((await this.#channel.request("GET_QUEUE_NUM", NO_PAYLOAD)).payload));
  }

  /** Tells the device's status register; a back-end that does not take it is told nothing. */
  async setStatus(status: number): Promise<void> {
    if (!this.has("status")) return;
    await this.#channel.request("SET_STATUS", encodeNumber(BigInt(status)));
  }

  async status(): Promise<number> {
    this.#agreed.need("status", "asking for the status");
    return Number(decodeNumber((await this.#channel.request("GET_STATUS", NO_PAYLOAD)).payload));
  }

  /** @returns `bytes` bytes of the device's configuration from `offset` on. */
  async config(offset: number, bytes: number): Promise<Uint8Array> {
    this.#agreed.need("config", "reading the configuration");
    checkConfigSpan(offset, bytes);
    const request = withTail(configHead.encode({ offset, bytes, flags: 0 }), new Uint8Array(bytes));
    const { payload } = await this.#channel.request("GET_CONFIG", request);
    const head = configHead.decode(payload);
    if (head.bytes === bytes && payload.length === configHead.size + bytes) return payload.subarray(configHead.size);
    throw new ProtocolError(
      "VHOST_CONFIG",
      `${this.name}: ${head.bytes} bytes of configuration came, ${bytes} from ${offset} were asked for`,
    );
  }

  /** @param isMigration  The destination restores what the source had; otherwise the guest writes. */
  async setConfig(offset: number, bytes: Uint8Array, isMigration: boolean): Promise<void> {
    this.#agreed.need("config", "writing the configuration");
    checkConfigSpan(offset, bytes.length);
    const head = configHead.encode({ offset, bytes: bytes.length, flags: isMigration ? 1 : 0 });
    await this.#channel.request("SET_CONFIG", withTail(head, bytes));
  }

  /** Memory in which the back-end notes what it has begun. @returns null where it keeps none. */
  async inflight(queues: number, queueSize: number): Promise<(Inflight & { readonly descriptor: number }) | null> {
    this.#agreed.need("inflight", "asking for the inflight memory");
    const request = inflightDescription.encode({ lengthBytes: 0, offsetBytes: 0, queues, queueSize });
    const { payload, descriptors } = await this.#channel.request("GET_INFLIGHT_FD", request);
    const [descriptor] = descriptors;
    return descriptor === undefined ? null : { ...inflightDescription.decode(payload), descriptor };
  }

  /** Gives it back after a reconnection. */
  async setInflight(inflight: Inflight, descriptor: number): Promise<void> {
    this.#agreed.need("inflight", "returning the inflight memory");
    await this.#channel.request("SET_INFLIGHT_FD", inflightDescription.encode(inflight), [descriptor]);
  }

  async resetDevice(): Promise<void> {
    this.#agreed.need("resetDevice", "resetting the device");
    await this.#channel.request("RESET_DEVICE", NO_PAYLOAD);
  }

  /** Asks the back-end to announce a MAC address on its network. */
  async sendRarp(mac: Uint8Array): Promise<void> {
    this.#agreed.need("rarp", "announcing the guest");
    if (mac.length !== 6) throw new RangeError(`a MAC address has 6 bytes, not ${mac.length}`);
    await this.#channel.request("SEND_RARP", withTail(mac, new Uint8Array(2)));
  }

  /**
   * Begins a device-state transfer.
   *
   * @param descriptor  The back-end's end of a pipe; stays the caller's.
   * @returns A descriptor to use in place of the pipe, the caller's to close; null: the pipe it is.
   * @throws {ProtocolError} VHOST_STATE_REFUSED.
   */
  async beginState(direction: keyof typeof stateDirection, descriptor: number): Promise<number | null> {
    this.#needState();
    const request = deviceStateDirection.encode({ direction: stateDirection[direction], phase: STATE_PHASE_STOPPED });
    const { payload, descriptors } = await this.#channel.request("SET_DEVICE_STATE_FD", request, [descriptor]);
    const value = decodeNumber(payload);
    const [came] = descriptors;
    const noDescriptor = (value & 0x100n) !== 0n;
    if ((value & ~0x100n) === 0n && noDescriptor === (came === undefined)) return came ?? null;
    if (came !== undefined) closeDescriptor(came);
    throw new ProtocolError(
      "VHOST_STATE_REFUSED",
      `${this.name} answers ${direction} with 0x${value.toString(16)} and ${descriptors.length} descriptors; 0x100 and none, or 0 and one, were due; see its log`,
    );
  }

  /** The back-end's verdict on the transfer before. @throws {ProtocolError} VHOST_STATE_CHECK. */
  async checkState(): Promise<void> {
    this.#needState();
    const value = decodeNumber((await this.#channel.request("CHECK_DEVICE_STATE", NO_PAYLOAD)).payload);
    if (value === 0n) return;
    throw new ProtocolError(
      "VHOST_STATE_CHECK",
      `${this.name} answers CHECK_DEVICE_STATE with 0x${value.toString(16)}, 0 was due: it has refused the state or could not give it; see its log`,
    );
  }

  /** Ends the connection: most back-ends end with it. Requests under way fail. Idempotent. */
  close(): void {
    this.#channel.close();
  }

  #needState(): void {
    if (!this.has("deviceState2023")) this.#agreed.need("deviceState", "moving device state");
  }
}

function withTail(head: Uint8Array, tail: Uint8Array): Uint8Array {
  const whole = new Uint8Array(head.length + tail.length);
  whole.set(head);
  whole.set(tail, head.length);
  return whole;
}

function checkConfigSpan(offset: number, bytes: number): void {
  if (offset + bytes <= CONFIG_BYTES_MAX) return;
  throw new RangeError(`${bytes} bytes of configuration from ${offset}; a device has at most ${CONFIG_BYTES_MAX}`);
}
