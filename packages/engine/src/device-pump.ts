/**
 * Device pump: takes devices' states out of their providers, and publishes them beside the RAM packets.
 *
 * A state is a stream of bytes without end in sight, so it is cut into chunks as
 * large as a packet bears, numbered per device, and never held as a whole: the
 * next bytes are asked for when the ones before have found a place in the stage.
 * A few devices are asked at a time, in order; all others wait for their turn.
 *
 *   provider ── chunk ──▶ stage, ring ──▶ whichever channel is free
 *
 * What a device gives while the guest runs goes out in whatever rounds there are;
 * what it gives when paused, in the last one. The numbers run through.
 *
 * Runs on the coordinator thread; owns the providers' streams.
 */
import { DEVICE_STATE_BYTES_MAX } from "@multifd/dataplane";
import { ConfigError, DEVICE_STATE_CHUNK_BYTES, encodeChunkHead } from "@multifd/protocol";
import type { FirstFailure } from "./first-failure.js";
import type { DeviceStateProvider } from "./guest.js";
import type { RoundPublisher } from "./round-publisher.js";

/** Devices whose state is on its way at once; each holds one chunk in memory. */
const STREAMS_MAX = 8;
const CHUNK_DATA_MAX = DEVICE_STATE_BYTES_MAX - DEVICE_STATE_CHUNK_BYTES;

export class DevicePump {
  readonly #senders: readonly DeviceSender[];
  readonly #failure: FirstFailure;
  #isRunning = false;

  /** @param devices  Checked with `checkDeviceNames`. */
  constructor(devices: readonly DeviceStateProvider[], publisher: RoundPublisher, failure: FirstFailure) {
    this.#senders = devices.map((device) => new DeviceSender(device, publisher, failure));
    this.#failure = failure;
  }

  /** Whether `sendRunning` has begun and not ended. */
  get isRunning(): boolean {
    return this.#isRunning;
  }

  /** Publishes what devices have while the guest runs. Rejects when something failed, which has been told by then. */
  async sendRunning(): Promise<void> {
    this.#isRunning = true;
    await this.#each(async (sender) => {
      if (sender.device.saveRunning) await sender.send(sender.device.saveRunning());
    });
    this.#isRunning = false;
  }

  /** Publishes the rest, the guest paused or about to stop. Rejects when something failed, which has been told by then. */
  async sendRest(): Promise<void> {
    await this.#each(async (sender) => {
      await sender.send(sender.device.save());
      await sender.end();
    });
  }

  async #each(act: (sender: DeviceSender) => Promise<void>): Promise<void> {
    const waiting = this.#senders.values();
    const streams = Array.from({ length: STREAMS_MAX }, async () => {
      for (const sender of waiting) {
        try {
          this.#failure.check();
          await act(sender);
        } catch (error) {
          this.#failure.fail(error);
          throw error;
        }
      }
    });
    await Promise.all(streams);
  }
}

class DeviceSender {
  readonly device: DeviceStateProvider;
  readonly #publisher: RoundPublisher;
  readonly #failure: FirstFailure;
  readonly #idstr: Uint8Array;
  #index = 0;
  #pieces: Uint8Array[] = [];
  #bytes = 0;

  constructor(device: DeviceStateProvider, publisher: RoundPublisher, failure: FirstFailure) {
    this.device = device;
    this.#publisher = publisher;
    this.#failure = failure;
    this.#idstr = Buffer.from(device.idstr, "utf8");
  }

  /** Publishes a stream, all but what does not fill a chunk: that waits for what follows. */
  async send(stream: AsyncIterable<Uint8Array>): Promise<void> {
    const iterator = stream[Symbol.asyncIterator]();
    let isOver = false;
    try {
      for (;;) {
        const next = await this.#failure.race(iterator.next());
        if (next.done) {
          isOver = true;
          return;
        }
        await this.#add(next.value);
      }
    } finally {
      // A provider that hangs in `next` would hang in `return`, too: the guest is not to wait for it.
      if (!isOver) iterator.return?.().catch(() => {}); // what failed is known
    }
  }

  /** Publishes what is left, as the last chunk. */
  async end(): Promise<void> {
    await this.#publish(true);
  }

  async #add(bytes: Uint8Array): Promise<void> {
    for (let at = 0; at < bytes.length; ) {
      const piece = bytes.subarray(at, at + CHUNK_DATA_MAX - this.#bytes);
      this.#pieces.push(piece);
      this.#bytes += piece.length;
      at += piece.length;
      if (this.#bytes === CHUNK_DATA_MAX) await this.#publish(false);
    }
    if (this.device.sendsAtOnce && this.#bytes > 0) await this.#publish(false);
  }

  async #publish(isLast: boolean): Promise<void> {
    const payload = [encodeChunkHead(this.#index++, isLast), ...this.#pieces];
    this.#pieces = [];
    this.#bytes = 0;
    await this.#publisher.publishDeviceState(this.#idstr, this.device.instanceId, payload);
  }
}

/** @throws {ConfigError} DEVICE_NAME, where a device's name does not fit its packet or is another's, too. */
export function checkDeviceNames(devices: readonly DeviceStateProvider[]): void {
  const names = new Set<string>();
  for (const { idstr, instanceId } of devices) {
    const bytes = Buffer.byteLength(idstr);
    const name = `${instanceId} ${idstr}`;
    const isInstance = Number.isInteger(instanceId) && instanceId >= 0 && instanceId < 2 ** 32;
    if (bytes >= 1 && bytes <= 255 && !idstr.includes("\0") && isInstance && !names.has(name)) {
      names.add(name);
      continue;
    }
    throw new ConfigError(
      "DEVICE_NAME",
      `device "${idstr}" instance ${instanceId}: a name of 1 to 255 bytes and an instance of 32 bits that no other device has were due, the name has ${bytes} bytes${names.has(name) ? " and came twice" : ""}`,
    );
  }
}
