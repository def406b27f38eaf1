/**
 * Front-end: one back-end, spoken to in typed requests.
 *
 * Connecting negotiates: the features offered, then the protocol features, of
 * which we acknowledge those below and no other, then ownership. What a back-end
 * has not offered is never sent to it; it would close the connection.
 *
 * Owns the connection; descriptors handed in stay the caller's, those handed out become the caller's.
 * Source: QEMU 11.1, docs/interop/vhost-user.rst; virtiofsd, passt, qemu-storage-daemon and testpmd as they answer.
 */
import { closeDescriptor, connectSocket } from "@multifd/native";
import { ConfigError, ProtocolError } from "@multifd/protocol";
import {
  bitsOf,
  deviceFeature,
  featureSet,
  hasBit,
  nameProtocolFeatures,
  type ProtocolFeature,
  protocolFeature,
} from "./features.js";
import { type MemoryRegion, memoryTable, regionPayload } from "./memory-table.js";
import {
  configHead,
  deviceStateDirection,
  inflightDescription,
  logDescription,
  STATE_PHASE_STOPPED,
  stateDirection,
  VHOST_USER_REGIONS_MAX,
  VRING_NO_DESCRIPTOR,
  vhostUserNumber,
  vringAddress,
  vringState,
} from "./messages.js";
import { RequestChannel } from "./request-channel.js";

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

/** What we implement, and hence acknowledge. */
const implemented: readonly ProtocolFeature[] = [
  "queues",
  "logSharedMemory",
  "rarp",
  "replyAck",
  "config",
  "inflight",
  "resetDevice",
  "memorySlots",
  "status",
  "deviceState",
];

/** What the specification gives a device's configuration. */
const CONFIG_BYTES_MAX = 256;

export type Inflight = {
  readonly lengthBytes: number;
  readonly offsetBytes: number;
  readonly queues: number;
  readonly queueSize: number;
};

/** What front-end and back-end have agreed on about their connection. */
export type Negotiated = {
  /** Device features that the back-end offers. */
  readonly offered: bigint;
  readonly protocolFeatures: bigint;
};

export class FrontEnd {
  readonly #channel: RequestChannel;
  /** Device features that the back-end offers. */
  readonly offered: bigint;
  /** Protocol features agreed on. */
  readonly protocolFeatures: bigint;
  #acknowledged = 0n;

  private constructor(channel: RequestChannel, { offered, protocolFeatures }: Negotiated) {
    this.#channel = channel;
    this.offered = offered;
    this.protocolFeatures = protocolFeatures;
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
      const offered = numberOf((await channel.request("GET_FEATURES", nothing)).payload);
      const protocolFeatures = await negotiate(channel, offered, terms.deviceState2023 === true);
      await channel.request("SET_OWNER", nothing);
      return new FrontEnd(channel, { offered, protocolFeatures });
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
    applyFeatures(channel, negotiated.protocolFeatures);
    const frontEnd = new FrontEnd(channel, negotiated);
    frontEnd.#acknowledged = acknowledged;
    return frontEnd;
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

  /** Device features as last set. */
  get acknowledged(): bigint {
    return this.#acknowledged;
  }

  has(feature: ProtocolFeature): boolean {
    return hasBit(this.protocolFeatures, protocolFeature[feature]);
  }

  offers(deviceFeatureBit: number): boolean {
    return hasBit(this.offered, deviceFeatureBit);
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
    await this.#channel.request("SET_FEATURES", vhostUserNumber.encode({ value: features }));
    this.#acknowledged = features;
  }

  /** Rings that the back-end serves at most. */
  async queueCount(): Promise<number> {
    this.#need("queues", "counting queues");
    return Number(numberOf((await this.#channel.request("GET_QUEUE_NUM", nothing)).payload));
  }

  async memorySlots(): Promise<number> {
    this.#need("memorySlots", "asking for memory slots");
    return Number(numberOf((await this.#channel.request("GET_MAX_MEM_SLOTS", nothing)).payload));
  }

  /**
   * Tells the guest's whole memory, in place of what was told before.
   *
   * Up to 8 regions go as a table; more are added one by one, where the back-end takes them so, to none.
   */
  async setMemory(regions: readonly MemoryRegion[]): Promise<void> {
    if (regions.length <= VHOST_USER_REGIONS_MAX) {
      const descriptors = regions.map((region) => region.descriptor);
      await this.#channel.request("SET_MEM_TABLE", memoryTable(regions), descriptors);
      return;
    }
    this.#need("memorySlots", `telling ${regions.length} memory regions`);
    const slots = await this.memorySlots();
    if (regions.length > slots) {
      throw new ConfigError(
        "VHOST_MEMORY_SLOTS",
        `${this.name}: the guest has ${regions.length} memory regions, the back-end takes ${slots}`,
      );
    }
    for (const region of regions) await this.addMemory(region);
  }

  async addMemory(region: MemoryRegion): Promise<void> {
    this.#need("memorySlots", "adding memory");
    await this.#channel.request("ADD_MEM_REG", regionPayload(region), [region.descriptor]);
  }

  async removeMemory(region: MemoryRegion): Promise<void> {
    this.#need("memorySlots", "removing memory");
    await this.#channel.request("REM_MEM_REG", regionPayload(region));
  }

  /** Gives the back-end a log of dirty pages; resolves when it writes there and nowhere else. */
  async setLog(lengthBytes: number, descriptor: number): Promise<void> {
    this.#need("logSharedMemory", "logging dirty pages");
    // The offset stays 0: it must be page-aligned, and DPDK adds it twice.
    const payload = logDescription.encode({ lengthBytes, offsetBytes: 0 });
    await this.#channel.request("SET_LOG_BASE", payload, [descriptor]);
  }

  /** An event descriptor to be signalled when something was logged. rust-vmm back-ends close the connection on it. */
  async setLogEvent(descriptor: number): Promise<void> {
    await this.#channel.request("SET_LOG_FD", nothing, [descriptor]);
  }

  async setRingSize(index: number, size: number): Promise<void> {
    await this.#channel.request("SET_VRING_NUM", vringState.encode({ index, value: size }));
  }

  async setRingBase(index: number, base: number): Promise<void> {
    await this.#channel.request("SET_VRING_BASE", vringState.encode({ index, value: base }));
  }

  /** Stops a ring: the back-end finishes what it has begun. @returns the next base, as `setRingBase` takes it. */
  async takeRingBase(index: number): Promise<number> {
    const { payload } = await this.#channel.request("GET_VRING_BASE", vringState.encode({ index, value: 0 }));
    const state = vringState.decode(payload);
    if (state.index === index) return state.value;
    throw new ProtocolError(
      "VHOST_RING_INDEX",
      `${this.name}: the base of ring ${state.index} came, that of ring ${index} was due`,
    );
  }

  async setRingAddress(address: Parameters<typeof vringAddress.encode>[0]): Promise<void> {
    await this.#channel.request("SET_VRING_ADDR", vringAddress.encode(address));
  }

  /** @param descriptor  null: none, the back-end polls. */
  setRingKick(index: number, descriptor: number | null): Promise<void> {
    return this.#setRingDescriptor("SET_VRING_KICK", index, descriptor);
  }

  setRingCall(index: number, descriptor: number | null): Promise<void> {
    return this.#setRingDescriptor("SET_VRING_CALL", index, descriptor);
  }

  setRingError(index: number, descriptor: number | null): Promise<void> {
    return this.#setRingDescriptor("SET_VRING_ERR", index, descriptor);
  }

  /** Only where feature 30 was set: without, rings are enabled from the start. */
  async enableRing(index: number, isEnabled: boolean): Promise<void> {
    if (!hasBit(this.#acknowledged, deviceFeature.protocolFeatures)) return;
    await this.#channel.request("SET_VRING_ENABLE", vringState.encode({ index, value: isEnabled ? 1 : 0 }));
  }

  /** Tells the device's status register; a back-end that does not take it is told nothing. */
  async setStatus(status: number): Promise<void> {
    if (!this.has("status")) return;
    await this.#channel.request("SET_STATUS", vhostUserNumber.encode({ value: BigInt(status) }));
  }

  async status(): Promise<number> {
    this.#need("status", "asking for the status");
    return Number(numberOf((await this.#channel.request("GET_STATUS", nothing)).payload));
  }

  /** @returns `bytes` bytes of the device's configuration from `offset` on. */
  async config(offset: number, bytes: number): Promise<Uint8Array> {
    this.#need("config", "reading the configuration");
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
    this.#need("config", "writing the configuration");
    checkConfigSpan(offset, bytes.length);
    const head = configHead.encode({ offset, bytes: bytes.length, flags: isMigration ? 1 : 0 });
    await this.#channel.request("SET_CONFIG", withTail(head, bytes));
  }

  /** Memory in which the back-end notes what it has begun. @returns null where it keeps none. */
  async inflight(queues: number, queueSize: number): Promise<(Inflight & { readonly descriptor: number }) | null> {
    this.#need("inflight", "asking for the inflight memory");
    const request = inflightDescription.encode({ lengthBytes: 0, offsetBytes: 0, queues, queueSize });
    const { payload, descriptors } = await this.#channel.request("GET_INFLIGHT_FD", request);
    const [descriptor] = descriptors;
    return descriptor === undefined ? null : { ...inflightDescription.decode(payload), descriptor };
  }

  /** Gives it back after a reconnection. */
  async setInflight(inflight: Inflight, descriptor: number): Promise<void> {
    this.#need("inflight", "returning the inflight memory");
    await this.#channel.request("SET_INFLIGHT_FD", inflightDescription.encode(inflight), [descriptor]);
  }

  async resetDevice(): Promise<void> {
    this.#need("resetDevice", "resetting the device");
    await this.#channel.request("RESET_DEVICE", nothing);
  }

  /** Asks the back-end to announce a MAC address on its network. */
  async sendRarp(mac: Uint8Array): Promise<void> {
    this.#need("rarp", "announcing the guest");
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
    const value = numberOf(payload);
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
    const value = numberOf((await this.#channel.request("CHECK_DEVICE_STATE", nothing)).payload);
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

  async #setRingDescriptor(
    request: "SET_VRING_KICK" | "SET_VRING_CALL" | "SET_VRING_ERR",
    index: number,
    descriptor: number | null,
  ): Promise<void> {
    const value = BigInt(index) | (descriptor === null ? VRING_NO_DESCRIPTOR : 0n);
    await this.#channel.request(request, vhostUserNumber.encode({ value }), descriptor === null ? [] : [descriptor]);
  }

  #need(feature: ProtocolFeature, doing: string): void {
    if (this.has(feature)) return;
    const bit = protocolFeature[feature];
    const offered = nameProtocolFeatures(this.protocolFeatures).join(", ") || "none";
    throw new ConfigError(
      "VHOST_NOT_OFFERED",
      `${this.name}, ${doing}: the back-end does not offer protocol feature ${bit} (${nameProtocolFeatures(featureSet(bit))}); agreed on: ${offered}`,
    );
  }

  #needState(): void {
    if (!this.has("deviceState2023")) this.#need("deviceState", "moving device state");
  }
}

const nothing = new Uint8Array(0);

/** @returns the protocol features that both sides have from here on. */
async function negotiate(channel: RequestChannel, offered: bigint, takes2023: boolean): Promise<bigint> {
  if (!hasBit(offered, deviceFeature.protocolFeatures)) return 0n;
  const theirs = numberOf((await channel.request("GET_PROTOCOL_FEATURES", nothing)).payload);
  const ours = featureSet(...implemented.map((feature) => protocolFeature[feature]));
  let agreed = theirs & ours;
  const bit2023 = featureSet(protocolFeature.deviceState2023);
  if (takes2023 && !hasBit(agreed, protocolFeature.deviceState)) agreed |= theirs & bit2023;
  await channel.request("SET_PROTOCOL_FEATURES", vhostUserNumber.encode({ value: agreed }));
  applyFeatures(channel, agreed);
  return agreed;
}

/** What was agreed on decides how messages look from here on. */
function applyFeatures(channel: RequestChannel, agreed: bigint): void {
  if (hasBit(agreed, protocolFeature.replyAck)) channel.expectAcknowledgements();
  if (hasBit(agreed, protocolFeature.deviceState2023)) channel.useNumbersOf2023();
}

function numberOf(payload: Uint8Array): bigint {
  return vhostUserNumber.decode(payload).value;
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
