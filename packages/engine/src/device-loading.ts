/**
 * Device loading: puts the chunks of devices' states in order again, and feeds them to who loads them.
 *
 * Chunks of one device come down all channels and in any order. One that is early
 * waits for those before it; the rest is read by the device's loader at its own
 * pace. Memory is bounded: a chunk is admitted while there is room for it, and its
 * channel receives no other before. The chunk that a device is waiting for is let
 * in over the bound, one at a time, or early ones could keep it out for ever.
 *
 *   channel 0   2 5 6 ┐              early: 5 6
 *   channel 1   0 1   ├─▶ admitted ─▶ ready: 0 1 2 ──▶ loader
 *   channel 2   4 (3) ┘              early: 4
 *
 * Loaders of different devices run beside each other; each must take what it is
 * given without waiting for another device.
 *
 * Runs on the coordinator thread; owns the chunks until a loader has read them.
 */
import type { DeviceStateArrived } from "@multifd/dataplane";
import { type DeviceStateChunk, decodeChunk, ProtocolError, placeError } from "@multifd/protocol";
import type { DeviceName } from "./guest.js";

/** Bytes of chunks that are in and not loaded. */
const HELD_BYTES_MAX = 32 * 2 ** 20;
/** What a chunk costs beside its bytes. */
const CHUNK_COST_BYTES = 512;
const DEVICES_MAX = 65_536;

export type LoadingTerms = {
  readonly load: (device: DeviceName, state: AsyncIterable<Uint8Array>) => Promise<void>;
  /** Lets a channel receive its next device-state packet. */
  readonly admit: (channel: number) => void;
  readonly fail: (error: unknown) => void;
  /** Called after every change in what `arrived` and the others below tell. */
  readonly onChange: () => void;
};

/** A packet that was received, while there is no room for it. */
type Waiting = { readonly channel: number; readonly device: LoadingDevice; readonly chunk: DeviceStateChunk };

export class DeviceLoading {
  readonly #terms: LoadingTerms;
  readonly #devices = new Map<string, LoadingDevice>();
  /** In the order of arrival; one per channel at most. */
  readonly #waiting: Waiting[] = [];
  #arrived = 0;
  #heldBytes = 0;
  #readBytes = 0;
  #failed: { readonly error: unknown } | null = null;

  constructor(terms: LoadingTerms) {
    this.#terms = terms;
  }

  /** Packets that channels have handed over. */
  get arrived(): number {
    return this.#arrived;
  }

  /** Bytes that loaders have read so far. */
  get readBytes(): number {
    return this.#readBytes;
  }

  /** Bytes held for loaders now. */
  get heldBytes(): number {
    return this.#heldBytes;
  }

  /** A device of whose state something has not come, or null. */
  get incomplete(): DeviceName | null {
    return this.#find((device) => !device.isWhole);
  }

  /** A device that is not loaded, or null. */
  get loading(): DeviceName | null {
    return this.#find((device) => !device.isLoaded);
  }

  #find(test: (device: LoadingDevice) => boolean): DeviceName | null {
    for (const device of this.#devices.values()) if (test(device)) return device.name;
    return null;
  }

  /** Takes over what a channel has received. */
  arrive({ channel, idstr, instanceId, bytes }: DeviceStateArrived): void {
    if (this.#failed) return;
    try {
      const chunk = decodeChunk(bytes);
      const device = this.#deviceOf({ idstr, instanceId });
      device.expect(chunk);
      this.#waiting.push({ channel, device, chunk });
      this.#arrived++;
      this.#admitWaiting();
    } catch (error) {
      this.#terms.fail(placeError(error, `channel ${channel}, device "${idstr}" instance ${instanceId}`));
    }
    this.#terms.onChange();
  }

  /** Ends every loader's stream with `error`. */
  stop(error: unknown): void {
    this.#failed ??= { error };
    this.#waiting.length = 0;
    for (const device of this.#devices.values()) device.wake();
  }

  #deviceOf(name: DeviceName): LoadingDevice {
    const key = `${name.instanceId} ${name.idstr}`;
    const known = this.#devices.get(key);
    if (known) return known;
    if (this.#devices.size === DEVICES_MAX) {
      throw new ProtocolError("DEVICE_STATE_COUNT", `it is one device more than the ${DEVICES_MAX} that are taken`);
    }
    const device = new LoadingDevice(name);
    this.#devices.set(key, device);
    void this.#load(device);
    return device;
  }

  async #load(device: LoadingDevice): Promise<void> {
    try {
      await this.#terms.load(device.name, this.#read(device));
      device.isLoaded = true;
      this.#release(device);
    } catch (error) {
      this.#terms.fail(error);
    }
    this.#terms.onChange();
  }

  async *#read(device: LoadingDevice): AsyncGenerator<Uint8Array, void> {
    for (;;) {
      if (this.#failed) throw this.#failed.error;
      const chunk = device.ready.shift();
      if (chunk === undefined) {
        await device.awaitChunk();
        continue;
      }
      device.reading = chunk;
      this.#readBytes += chunk.bytes.length;
      if (chunk.bytes.length > 0) yield chunk.bytes;
      this.#release(device);
      if (chunk.isLast) return;
    }
  }

  /** Frees what the loader has read; and once it wants no more, what it has not. */
  #release(device: LoadingDevice): void {
    const read = device.reading === null ? [] : [device.reading];
    device.reading = null;
    const unwanted = device.isLoaded ? device.ready.splice(0) : [];
    for (const chunk of [...read, ...unwanted]) this.#heldBytes -= costOf(chunk);
    this.#admitWaiting();
  }

  #admitWaiting(): void {
    for (let at = 0; at < this.#waiting.length; ) {
      const { channel, device, chunk } = this.#waiting[at]!;
      if (!this.#hasRoom(device, chunk)) {
        at++;
        continue;
      }
      this.#waiting.splice(at, 1);
      at = 0; // what this one was waited for by may fit now
      this.#heldBytes += costOf(chunk);
      device.take(chunk);
      this.#terms.admit(channel);
      if (device.isLoaded) this.#release(device);
    }
  }

  #hasRoom(device: LoadingDevice, chunk: DeviceStateChunk): boolean {
    if (this.#heldBytes + costOf(chunk) <= HELD_BYTES_MAX) return true;
    return this.#heldBytes <= HELD_BYTES_MAX && device.isNext(chunk);
  }
}

/** One device's chunks, until they are read. */
class LoadingDevice {
  readonly name: DeviceName;
  /** In order, to be read. */
  readonly ready: DeviceStateChunk[] = [];
  reading: DeviceStateChunk | null = null;
  isLoaded = false;
  /** Index of the chunk that goes behind `ready`. */
  #next = 0;
  readonly #early = new Map<number, DeviceStateChunk>();
  /** Which have come, but for those below `next`. */
  readonly #seen = new Set<number>();
  #came = 0;
  #highest = -1;
  #last: number | null = null;
  #wake: () => void = () => {};

  constructor(name: DeviceName) {
    this.name = name;
  }

  get isWhole(): boolean {
    return this.#last !== null && this.#came === this.#last + 1;
  }

  /** @throws {ProtocolError} DEVICE_STATE_ORDER, where it came before or cannot belong to the others. */
  expect({ index, isLast }: DeviceStateChunk): void {
    const cameBefore = index < this.#next || this.#seen.has(index);
    const behindLast = this.#last !== null && (isLast || index > this.#last);
    if (cameBefore || behindLast || (isLast && index < this.#highest)) {
      throw new ProtocolError(
        "DEVICE_STATE_ORDER",
        `chunk ${index}${isLast ? ", the last," : ""} ${cameBefore ? "came twice" : `came, and ${this.#last === null ? `chunk ${this.#highest}` : `${this.#last} as the last`} before`}; the stream is damaged`,
      );
    }
    this.#came++;
    this.#seen.add(index);
    this.#highest = Math.max(this.#highest, index);
    if (isLast) this.#last = index;
  }

  isNext(chunk: DeviceStateChunk): boolean {
    return chunk.index === this.#next;
  }

  take(chunk: DeviceStateChunk): void {
    this.#early.set(chunk.index, chunk);
    for (let next = this.#early.get(this.#next); next !== undefined; next = this.#early.get(this.#next)) {
      this.#early.delete(this.#next);
      this.#seen.delete(this.#next);
      this.#next++;
      this.ready.push(next);
    }
    this.wake();
  }

  awaitChunk(): Promise<void> {
    return new Promise((resolve) => {
      this.#wake = resolve;
    });
  }

  wake(): void {
    this.#wake();
  }
}

function costOf({ bytes }: DeviceStateChunk): number {
  return bytes.length + CHUNK_COST_BYTES;
}
