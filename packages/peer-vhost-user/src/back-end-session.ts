/**
 * Back-end session: one front-end's connection, from its first message to its end.
 *
 * Messages and kicks are polled together and handled one by one, so that a device
 * sees a ring only between messages. A request that is malformed ends the session;
 * one that makes no sense here and now is refused by acknowledgement, where one was
 * asked for, and else ends the session too: silence would be taken for consent.
 *
 * Owns the connection, the mapped memory and the rings; all of it is gone when `run` settles.
 * Source: QEMU 11.1, docs/interop/vhost-user.rst, "Back-end".
 */
import { closeDescriptor, pollReadable, takeEvent } from "@multifd/native";
import { MigrationError, ProtocolError } from "@multifd/protocol";
import type { BackEndDevice } from "./back-end-device.js";
import { DeviceQueue } from "./device-queue.js";
import { deviceFeature, featureSet, hasBit, protocolFeature } from "./features.js";
import { MappedMemory, MEMORY_SLOTS, type ToldRegion } from "./mapped-memory.js";
import { MessageSocket, type VhostUserMessage } from "./message-socket.js";
import {
  configHead,
  deviceStateDirection,
  encodeVhostUserMessage,
  isWithin,
  logDescription,
  memoryRegion,
  memoryTableHead,
  type RequestName,
  type RequestShape,
  STATE_PHASE_STOPPED,
  sayingOf,
  singleRegionPad,
  VRING_INDEX_MASK,
  VRING_LOGGED,
  VRING_NO_DESCRIPTOR,
  vhostUserNumber,
  vhostUserRequests,
  vringAddress,
  vringState,
} from "./messages.js";
import { StateService } from "./state-service.js";

/** One poll lasts no longer, so that closing is noticed. */
const POLL_MS = 100;
/** From a message's first byte to its last. */
const MESSAGE_MS = 5000;

const REFUSED = vhostUserNumber.encode({ value: 1n });
const ACCEPTED = vhostUserNumber.encode({ value: 0n });
/** SET_DEVICE_STATE_FD: no descriptor of ours; use your own. */
const STATE_YOURS = 0x100n;
const STATE_REFUSED = 0x101n;

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
  readonly #memory = new MappedMemory();
  readonly #queues: readonly DeviceQueue[];
  readonly #state: StateService;
  readonly #features: bigint;
  readonly #protocolFeatures: bigint;
  #acknowledgedProtocol = 0n;
  #status = 0n;

  /** @param descriptor  The front-end's socket, owned from here on. */
  constructor(descriptor: number, device: BackEndDevice, onEvent: (event: SessionEvent) => void) {
    this.#socket = new MessageSocket(descriptor, "front-end");
    this.#device = device;
    this.#onEvent = onEvent;
    this.#queues = Array.from({ length: device.queues }, (_, index) => new DeviceQueue(index, this.#memory));
    this.#state = new StateService(device);
    const { logAll, protocolFeatures, version1 } = deviceFeature;
    this.#features = device.features | featureSet(logAll, protocolFeatures, version1);
    this.#protocolFeatures = offeredProtocol(device, this.#state);
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
      await this.#state.close();
      for (const queue of this.#queues) queue.close();
      this.#memory.close();
    }
  }

  /** Ends the session within a moment. */
  close(): void {
    this.#socket.close();
  }

  /** @returns false when the front-end has gone. */
  async #step(): Promise<boolean> {
    const kicked = this.#queues.filter((queue) => queue.kick !== null);
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
    const asked = message.needsReply && hasBit(this.#acknowledgedProtocol, protocolFeature.replyAck);
    let reply: Uint8Array;
    try {
      reply = (await this.#act(name, message.payload, descriptors)) ?? ACCEPTED;
    } catch (error) {
      if (!(error instanceof MigrationError) || shape.reply !== null || !asked) throw error;
      this.#onEvent({ kind: "refused", request: name, error });
      reply = REFUSED;
    }
    if (shape.reply === null && !asked) return;
    this.#socket.send(encodeVhostUserMessage(message.id, "reply", reply), []);
  }

  /** @returns the payload of the reply; null where there is none of its own. */
  async #act(name: RequestName, payload: Uint8Array, descriptors: number[]): Promise<Uint8Array | null> {
    switch (name) {
      case "GET_FEATURES":
        return numberPayload(this.#features);
      case "SET_FEATURES":
        return this.#setFeatures(numberOf(payload));
      case "GET_PROTOCOL_FEATURES":
        return numberPayload(this.#protocolFeatures);
      case "SET_PROTOCOL_FEATURES":
        this.#acknowledgedProtocol = subset(numberOf(payload), this.#protocolFeatures, "protocol features");
        return null;
      case "SET_OWNER":
      case "SET_VRING_ERR":
      case "SET_LOG_FD":
        return null;
      case "RESET_DEVICE":
        for (const queue of this.#queues) queue.stop();
        return null;
      case "SET_MEM_TABLE":
        this.#memory.replace(decodeTable(payload, descriptors.length), descriptors.splice(0));
        return null;
      case "ADD_MEM_REG":
        this.#memory.add(decodeSingle(payload), descriptors.shift()!);
        return null;
      case "REM_MEM_REG":
        this.#memory.remove(decodeSingle(payload));
        return null;
      case "GET_MAX_MEM_SLOTS":
        return numberPayload(BigInt(MEMORY_SLOTS));
      case "SET_LOG_BASE":
        this.#memory.setLog(logDescription.decode(payload), descriptors.shift()!);
        return numberPayload(0n);
      case "GET_QUEUE_NUM":
        return numberPayload(BigInt(this.#queues.length));
      case "SET_STATUS":
        this.#status = numberOf(payload);
        return null;
      case "GET_STATUS":
        return numberPayload(this.#status);
      case "SEND_RARP":
        if (!this.#device.announce) throw notOffered(name);
        this.#device.announce(payload.subarray(0, 6));
        return null;
      case "GET_CONFIG":
        return this.#readConfig(payload);
      case "SET_CONFIG":
        return this.#writeConfig(payload);
      case "SET_DEVICE_STATE_FD":
        return numberPayload(this.#beginState(payload, descriptors.shift()!) ? STATE_YOURS : STATE_REFUSED);
      case "CHECK_DEVICE_STATE":
        return numberPayload(await this.#checkState());
      case "GET_INFLIGHT_FD":
      case "SET_INFLIGHT_FD":
        throw notOffered(name);
      default:
        return this.#actOnRing(name, payload, descriptors);
    }
  }

  #actOnRing(
    name: Extract<RequestName, `${string}VRING${string}`>,
    payload: Uint8Array,
    descriptors: number[],
  ): Uint8Array | null {
    switch (name) {
      case "SET_VRING_KICK":
      case "SET_VRING_CALL": {
        const value = numberOf(payload);
        const queue = this.#queue(Number(value & VRING_INDEX_MASK));
        if (((value & VRING_NO_DESCRIPTOR) === 0n) !== (descriptors.length === 1)) {
          throw new ProtocolError("VHOST_DESCRIPTORS", `${name}: a descriptor came, or not, against what was said`);
        }
        const descriptor = descriptors.shift() ?? null;
        if (name === "SET_VRING_CALL") queue.setCall(descriptor);
        else queue.setKick(descriptor);
        this.#serveIfReady(queue);
        return null;
      }
      case "SET_VRING_ADDR": {
        const address = vringAddress.decode(payload);
        const queue = this.#queue(address.index);
        if (address.descriptors % 16 !== 0 || address.available % 2 !== 0 || address.used % 4 !== 0) {
          throw new ProtocolError("VHOST_RING", `${name}: the parts of ring ${address.index} are not aligned`);
        }
        queue.setPlace({
          descriptors: this.#memory.guestAddressOf(address.descriptors, 16),
          available: this.#memory.guestAddressOf(address.available, 4),
          used: this.#memory.guestAddressOf(address.used, 4),
          logAddress: (address.flags & VRING_LOGGED) === 0 ? null : address.logAddress,
        });
        return null;
      }
      default: {
        const { index, value } = vringState.decode(payload);
        const queue = this.#queue(index);
        if (name === "SET_VRING_NUM") queue.setSize(value);
        else if (name === "SET_VRING_BASE") queue.setBase(value);
        else if (name === "GET_VRING_BASE") return vringState.encode({ index, value: queue.stop() });
        else queue.enable(value !== 0);
        this.#serveIfReady(queue);
        return null;
      }
    }
  }

  /** What waits in a ring that has just been started was kicked for long ago, perhaps on another host. */
  #serveIfReady(queue: DeviceQueue): void {
    if (queue.isReady) this.#device.serve(queue);
  }

  #setFeatures(features: bigint): null {
    subset(features, this.#features, "features");
    this.#memory.isLogging = hasBit(features, deviceFeature.logAll);
    // Without this feature there is no SET_VRING_ENABLE, and rings are enabled from the start.
    if (!hasBit(features, deviceFeature.protocolFeatures)) for (const queue of this.#queues) queue.enable(true);
    return null;
  }

  #queue(index: number): DeviceQueue {
    const queue = this.#queues[index];
    if (queue !== undefined) return queue;
    throw new ProtocolError("VHOST_RING_INDEX", `ring ${index} is named, the device has ${this.#queues.length}`);
  }

  #readConfig(payload: Uint8Array): Uint8Array {
    const { offset, bytes, flags } = configHead.decode(payload);
    const { config } = this.#device;
    const isInside =
      config !== undefined && offset + bytes <= config.length && payload.length === configHead.size + bytes;
    const content = isInside ? config.subarray(offset, offset + bytes) : new Uint8Array(0);
    return Buffer.concat([configHead.encode({ offset, bytes: content.length, flags }), content]);
  }

  #writeConfig(payload: Uint8Array): null {
    const { offset, bytes } = configHead.decode(payload);
    const { config } = this.#device;
    if (config === undefined || offset + bytes > config.length || payload.length !== configHead.size + bytes) {
      throw new ProtocolError("VHOST_CONFIG", `${bytes} bytes for the configuration at ${offset} do not fit it`);
    }
    config.set(payload.subarray(configHead.size), offset);
    return null;
  }

  #beginState(payload: Uint8Array, descriptor: number): boolean {
    const { direction, phase } = deviceStateDirection.decode(payload);
    const isStopped = this.#queues.every((queue) => !queue.isStarted);
    if (phase === STATE_PHASE_STOPPED && isStopped && this.#state.isOffered) {
      return this.#state.begin(direction, descriptor);
    }
    closeDescriptor(descriptor);
    return false;
  }

  async #checkState(): Promise<bigint> {
    const verdict = await this.#state.check();
    const { lastFailure } = this.#state;
    if (verdict !== 0n && lastFailure !== null) this.#onEvent({ kind: "state-failed", error: lastFailure });
    return verdict;
  }
}

function offeredProtocol(device: BackEndDevice, state: StateService): bigint {
  const { queues, logSharedMemory, replyAck, memorySlots, resetDevice, status } = protocolFeature;
  let offered = featureSet(queues, logSharedMemory, replyAck, memorySlots, resetDevice, status);
  if (device.announce) offered |= featureSet(protocolFeature.rarp);
  if (device.config) offered |= featureSet(protocolFeature.config);
  if (state.isOffered) offered |= featureSet(protocolFeature.deviceState);
  return offered;
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

function decodeTable(payload: Uint8Array, descriptors: number): ToldRegion[] {
  const { regions } = memoryTableHead.decode(payload);
  if (regions !== descriptors || payload.length < memoryTableHead.size + regions * memoryRegion.size) {
    throw new ProtocolError(
      "VHOST_MEMORY",
      `SET_MEM_TABLE tells of ${regions} regions in ${payload.length} bytes with ${descriptors} descriptors`,
    );
  }
  return Array.from({ length: regions }, (_, at) =>
    memoryRegion.decode(payload, memoryTableHead.size + at * memoryRegion.size),
  );
}

function decodeSingle(payload: Uint8Array): ToldRegion {
  return memoryRegion.decode(payload, singleRegionPad.size);
}

function numberOf(payload: Uint8Array): bigint {
  return vhostUserNumber.decode(payload).value;
}

function numberPayload(value: bigint): Uint8Array {
  return vhostUserNumber.encode({ value });
}

function subset(came: bigint, offered: bigint, what: string): bigint {
  if ((came & ~offered) === 0n) return came;
  throw new ProtocolError(
    "VHOST_NOT_OFFERED",
    `${what} 0x${came.toString(16)} came, 0x${offered.toString(16)} are offered`,
  );
}

function notOffered(name: RequestName): ProtocolError {
  return new ProtocolError("VHOST_NOT_OFFERED", `${name} came, which this back-end does not offer`);
}
