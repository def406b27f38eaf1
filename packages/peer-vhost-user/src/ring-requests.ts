/**
 * Ring requests: what a front-end tells a back-end of its rings, one by one.
 *
 * A ring is set up while it is stopped, starts with its first kick or call, and
 * stops when its base is taken.
 *
 * Owns nothing; descriptors stay the caller's.
 * Source: QEMU 11.1, docs/interop/vhost-user.rst, "Ring states".
 */
import { ProtocolError } from "@multifd/protocol";
import { encodeNumber, VRING_NO_DESCRIPTOR, vringAddress, vringState } from "./messages.js";
import type { RequestChannel } from "./request-channel.js";

export class RingRequests {
  readonly #channel: RequestChannel;
  readonly #areEnabledApart: () => boolean;

  /** @param areEnabledApart  Whether device feature 30 was set: without, rings are enabled from the start. */
  constructor(channel: RequestChannel, areEnabledApart: () => boolean) {
    this.#channel = channel;
    this.#areEnabledApart = areEnabledApart;
  }

  async setSize(index: number, size: number): Promise<void> {
    await this.#channel.request("SET_VRING_NUM", vringState.encode({ index, value: size }));
  }

  async setBase(index: number, base: number): Promise<void> {
    await this.#channel.request("SET_VRING_BASE", vringState.encode({ index, value: base }));
  }

  /** Stops a ring: the back-end finishes what it has begun. @returns the next base, as `setBase` takes it. */
  async takeBase(index: number): Promise<number> {
    const { payload } = await this.#channel.request("GET_VRING_BASE", vringState.encode({ index, value: 0 }));
    const state = vringState.decode(payload);
    if (state.index === index) return state.value;
    throw new ProtocolError(
      "VHOST_RING_INDEX",
      `${this.#channel.name}: the base of ring ${state.index} came, that of ring ${index} was due`,
    );
  }

  async setAddress(address: Parameters<typeof vringAddress.encode>[0]): Promise<void> {
    await this.#channel.request("SET_VRING_ADDR", vringAddress.encode(address));
  }

  /** @param descriptor  null: none, the back-end polls. */
  setKick(index: number, descriptor: number | null): Promise<void> {
    return this.#setDescriptor("SET_VRING_KICK", index, descriptor);
  }

  setCall(index: number, descriptor: number | null): Promise<void> {
    return this.#setDescriptor("SET_VRING_CALL", index, descriptor);
  }

  setError(index: number, descriptor: number | null): Promise<void> {
    return this.#setDescriptor("SET_VRING_ERR", index, descriptor);
  }

  async enable(index: number, isEnabled: boolean): Promise<void> {
    if (!this.#areEnabledApart()) return;
    await this.#channel.request("SET_VRING_ENABLE", vringState.encode({ index, value: isEnabled ? 1 : 0 }));
  }

  async #setDescriptor(
    request: "SET_VRING_KICK" | "SET_VRING_CALL" | "SET_VRING_ERR",
    index: number,
    descriptor: number | null,
  ): Promise<void> {
    const value = BigInt(index) | (descriptor === null ? VRING_NO_DESCRIPTOR : 0n);
    await this.#channel.request(request, encodeNumber(value), descriptor === null ? [] : [descriptor]);
  }
}
