/**
 * Device stage: where the payload of a device-state packet waits for a channel to take it.
 *
 * The coordinator copies a payload into a free place and publishes the place's
 * number through the packet ring, like any packet; the worker that claims it
 * copies it out and frees the place. A few places bound the memory: whoever
 * fills them waits for the ring's bell.
 */
import { PACKET_GUEST_BYTES } from "@multifd/protocol";

const PLACES = 4;
const FREE = 0;
const FULL = 1;
const IDSTR_BYTES = 256;
/** Words at the head of a place, then the name, then the payload. */
const PLACE = { state: 0, instanceId: 1, idstrBytes: 2, stateBytes: 3, headBytes: 16 } as const;
const PLACE_BYTES = PLACE.headBytes + IDSTR_BYTES + PACKET_GUEST_BYTES;

/** Largest payload of a device-state packet that we send. */
export const DEVICE_STATE_BYTES_MAX = PACKET_GUEST_BYTES;

export class DeviceStage {
  readonly shared: SharedArrayBuffer;
  readonly #words: Int32Array;
  readonly #bytes: Uint8Array;

  constructor(shared?: SharedArrayBuffer) {
    this.shared = shared ?? new SharedArrayBuffer(PLACES * PLACE_BYTES);
    this.#words = new Int32Array(this.shared);
    this.#bytes = new Uint8Array(this.shared);
  }

  /**
   * Copies a payload in. Coordinator only.
   *
   * @param idstr  1…255 bytes, checked by the caller; so is the size of all `parts`, which go one behind the other.
   * @returns The place's number, or -1 while all are taken.
   */
  put(idstr: Uint8Array, instanceId: number, parts: readonly Uint8Array[]): number {
    for (let place = 0; place < PLACES; place++) {
      const word = (place * PLACE_BYTES) / 4;
      if (Atomics.load(this.#words, word + PLACE.state) !== FREE) continue;
      const at = place * PLACE_BYTES + PLACE.headBytes;
      this.#words[word + PLACE.instanceId] = instanceId;
      this.#words[word + PLACE.idstrBytes] = idstr.length;
      this.#bytes.set(idstr, at);
      let end = at + IDSTR_BYTES;
      for (const part of parts) {
        this.#bytes.set(part, end);
        end += part.length;
      }
      this.#words[word + PLACE.stateBytes] = end - at - IDSTR_BYTES;
      Atomics.store(this.#words, word + PLACE.state, FULL);
      return place;
    }
    return -1;
  }

  /** Copies the payload of a claimed place into `out` and frees the place. Workers only. */
  take(place: number, out: Uint8Array): { idstr: string; instanceId: number; stateBytes: number } {
    const word = (place * PLACE_BYTES) / 4;
    const at = place * PLACE_BYTES + PLACE.headBytes;
    const idstr = Buffer.from(this.#bytes.slice(at, at + this.#words[word + PLACE.idstrBytes]!)).toString("utf8");
    const stateBytes = this.#words[word + PLACE.stateBytes]!;
    const instanceId = this.#words[word + PLACE.instanceId]! >>> 0;
    out.set(this.#bytes.subarray(at + IDSTR_BYTES, at + IDSTR_BYTES + stateBytes));
    Atomics.store(this.#words, word + PLACE.state, FREE);
    return { idstr, instanceId, stateBytes };
  }
}
