/**
 * Back-end requests: what each request of a front-end does to the device, its rings and the guest's memory.
 *
 * A request makes sense here and now or throws; whether that ends the session is
 * not decided here. Rings are served as soon as they are ready, for what waits in
 * them was kicked for long ago.
 *
 * Owns the mapped memory, the rings and the state transfer, until `close`.
 * Source: QEMU 11.1, docs/interop/vhost-user.rst, "Back-end".
 */
import { closeDescriptor } from "@multifd/native";
import { ProtocolError } from "@multifd/protocol";
import type { BackEndDevice } from "./back-end-device.js";
import { DeviceQueue } from "./device-queue.js";
import { deviceFeature, featureSet, hasBit, protocolFeature } from "./features.js";
import { MappedMemory, MEMORY_SLOTS, type ToldRegion } from "./mapped-memory.js";
import {
  configHead,
  decodeNumber,
  deviceStateDirection,
  encodeNumber,
  logDescription,
  memoryRegion,
  memoryTableHead,
  type RequestName,
  STATE_PHASE_STOPPED,
  singleRegionPad,
  VRING_INDEX_MASK,
  VRING_LOGGED,
  VRING_NO_DESCRIPTOR,
  vringAddress,
  vringState,
} from "./messages.js";
import { StateService } from "./state-service.js";

/** SET_DEVICE_STATE_FD: no descriptor of ours; use your own. */
const STATE_YOURS = 0x100n;
const STATE_REFUSED = 0x101n;

export class BackEndRequests {
  readonly queues: readonly DeviceQueue[];
  readonly #device: BackEndDevice;
  readonly #onStateFailed: (error: Error) => void;
  readonly #memory = new MappedMemory();
  readonly #state: StateService;
  readonly #features: bigint;
  readonly #protocolFeatures: bigint;
  #acknowledgedProtocol = 0n;
  #status = 0n;

  /** @param onStateFailed  Told why the back-end's own state could not be moved. */
  constructor(device: BackEndDevice, onStateFailed: (error: Error) => void) {
    this.#device = device;
    this.#onStateFailed = onStateFailed;
    this.queues = Array.from({ length: device.queues }, (_, index) => new DeviceQueue(index, this.#memory));
    this.#state = new StateService(device);
    const { logAll, protocolFeatures, version1 } = deviceFeature;
    this.#features = device.features | featureSet(logAll, protocolFeatures, version1);
    this.#protocolFeatures = offeredProtocol(device, this.#state);
  }

  /** Whether requests without a reply of their own may ask for an acknowledgement. */
  get acknowledges(): boolean {
    return hasBit(this.#acknowledgedProtocol, protocolFeature.replyAck);
  }

  async close(): Promise<void> {
    await this.#state.close();
    for (const queue of this.queues) queue.close();
    this.#memory.close();
  }

  /**
   * Does what a request asks for.
   *
   * @param payload      As long as the request's shape says.
   * @param descriptors  As many as its shape says; whoever uses one takes it out.
   * @returns the payload of the reply; null where there is none of its own.
   * @throws {ProtocolError} where it makes no sense here and now.
   */
  async act(name: RequestName, payload: Uint8Array, descriptors: number[]): Promise<Uint8Array | null> {
    switch (name) {
      case "GET_FEATURES":
        return encodeNumber(this.#features);
      case "SET_FEATURES":
        return this.#setFeatures(decodeNumber(payload));
      case "GET_PROTOCOL_FEATURES":
        return encodeNumber(this.#protocolFeatures);
      case "SET_PROTOCOL_FEATURES":
        this.#acknowledgedProtocol = subset(decodeNumber(payload), this.#protocolFeatures, "protocol features");
        return null;
      case "SET_OWNER":
      case "SET_VRING_ERR":
      case "SET_LOG_FD":
        return null;
      case "RESET_DEVICE":
        for (const queue of this.queues) queue.stop();
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
        return encodeNumber(BigInt(MEMORY_SLOTS));
      case "SET_LOG_BASE":
        this.#memory.setLog(logDescription.decode(payload), descriptors.shift()!);
        return encodeNumber(0n);
      case "GET_QUEUE_NUM":
        return encodeNumber(BigInt(this.queues.length));
      case "SET_STATUS":
        this.#status = decodeNumber(payload);
        return null;
      case "GET_STATUS":
        return encodeNumber(this.#status);
      case "SEND_RARP":
        if (!this.#device.announce) throw notOffered(name);
        this.#device.announce(payload.subarray(0, 6));
        return null;
      case "GET_CONFIG":
        return this.#readConfig(payload);
      case "SET_CONFIG":
        return this.#writeConfig(payload);
      case "SET_DEVICE_STATE_FD":
        return encodeNumber(this.#beginState(payload, descriptors.shift()!) ? STATE_YOURS : STATE_REFUSED);
      case "CHECK_DEVICE_STATE":
        return encodeNumber(await this.#checkState());
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
        const value = decodeNumber(payload);
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
    if (!hasBit(features, deviceFeature.protocolFeatures)) for (const queue of this.queues) queue.enable(true);
    return null;
  }

  #queue(index: number): DeviceQueue {
    const queue = this.queues[index];
    if (queue !== undefined) return queue;
    throw new ProtocolError("VHOST_RING_INDEX", `ring ${index} is named, the device has ${this.queues.length}`);
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
    const isStopped = this.queues.every((queue) => !queue.isStarted);
    if (phase === STATE_PHASE_STOPPED && isStopped && this.#state.isOffered) {
      return this.#state.begin(direction, descriptor);
    }
    closeDescriptor(descriptor);
    return false;
  }

  async #checkState(): Promise<bigint> {
    const verdict = await this.#state.check();
    const { lastFailure } = this.#state;
    if (verdict !== 0n && lastFailure !== null) this.#onStateFailed(lastFailure);
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
