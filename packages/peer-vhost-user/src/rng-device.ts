/**
 * Rng device: virtio's entropy source, with counters that are worth a migration.
 *
 * The example of a back-end, and the proof that it migrates: its state is how many
 * requests it has answered and how many bytes it has given, and whoever takes it over counts on.
 * Source: virtio 1.3, 5.4.
 */
import { randomFillSync } from "node:crypto";
import { layout, ProtocolError, u32le, u64le } from "@multifd/protocol";
import type { BackEndDevice } from "./back-end-device.js";
import type { DeviceQueue } from "./device-queue.js";

const rngState = layout(
  "rng device state",
  {
    magic: u32le.equals(0x474e_5256, { code: "RNG_STATE", remedy: "is this another device's state?" }), // "VRNG"
    version: u32le.equals(1, { code: "RNG_STATE", remedy: "use the same version on both sides" }),
    requests: u64le,
    bytes: u64le,
  },
  { size: 24 },
);

/** A guest may ask for more; it gets this much and asks again. */
const ANSWER_BYTES_MAX = 2 ** 16;

export class RngDevice implements BackEndDevice {
  readonly features = 0n;
  readonly queues: number;
  #requests = 0;
  #bytes = 0;

  /** @param queues  virtio-rng has one; some front-ends insist on more. */
  constructor(queues = 1) {
    this.queues = queues;
  }

  get counters(): { readonly requests: number; readonly bytes: number } {
    return { requests: this.#requests, bytes: this.#bytes };
  }

  serve(queue: DeviceQueue): void {
    for (let chain = queue.pop(); chain !== null; chain = queue.pop()) {
      const answer = randomFillSync(new Uint8Array(Math.min(chain.writableBytes, ANSWER_BYTES_MAX)));
      queue.push(chain, answer);
      this.#requests++;
      this.#bytes += answer.length;
    }
    queue.notify();
  }

  saveState(): Iterable<Uint8Array> {
    return [rngState.encode({ requests: this.#requests, bytes: this.#bytes })];
  }

  loadState(state: Uint8Array): void {
    if (state.length !== rngState.size) {
      throw new ProtocolError(
        "RNG_STATE",
        `rng device: ${state.length} bytes of state came, ${rngState.size} were due`,
      );
    }
    const { requests, bytes } = rngState.decode(state);
    this.#requests = requests;
    this.#bytes = bytes;
  }
}
