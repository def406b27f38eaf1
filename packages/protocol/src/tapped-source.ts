/**
 * Tapped source: a byte source that also hands on what is read from it, verbatim.
 *
 * For a stream that is understood and passed on at once: the decoder reads through
 * here, and what it has taken goes on before it waits for more, or when its owner
 * says so. So nothing is held back longer than it takes to read what has arrived,
 * and whoever must keep the last bytes until something else has happened can.
 * A slow taker holds the reader up; at most one chunk is under way. What may turn out to
 * be meant for the reader alone is held, in a copy, until that is known.
 */
import type { ByteSource } from "./byte-source.js";
import { viewOf } from "./layout.js";
import { u64be } from "./wire-fields.js";

export class TappedSource implements ByteSource {
  readonly #source: ByteSource;
  readonly #handOn: (bytes: Uint8Array) => Promise<void>;
  /** All that was taken and not handed on, in the source's own buffer: it stays in place until the next `fill`. */
  #first: Uint8Array | null = null;
  #takenBytes = 0;
  /** What was taken before that and is held; null while nothing needs to be. */
  #held: Uint8Array | null = null;

  /** @param handOn  Takes bytes that are good until it resolves. */
  constructor(source: ByteSource, handOn: (bytes: Uint8Array) => Promise<void>) {
    this.#source = source;
    this.#handOn = handOn;
  }

  get available(): number {
    return this.#source.available;
  }

  get position(): number {
    return this.#source.position;
  }

  async fill(bytes: number): Promise<boolean> {
    if (this.#held === null) await this.handOn(0);
    else this.hold();
    return this.#source.fill(bytes);
  }

  /** From here on nothing is handed on but by `handOn`, and whoever asks for it keeps that small. */
  hold(): void {
    const held = this.#held ?? new Uint8Array(0);
    const joined = new Uint8Array(held.length + this.#takenBytes);
    joined.set(held);
    if (this.#first !== null)
      joined.set(new Uint8Array(this.#first.buffer, this.#first.byteOffset, this.#takenBytes), held.length);
    this.#held = joined;
    this.#first = null;
    this.#takenBytes = 0;
  }

  /** Forgets the last `bytes` bytes taken, all of them since `hold`. */
  drop(bytes: number): void {
    this.hold();
    this.#held = this.#held!.subarray(0, this.#held!.length - bytes);
  }

  /** Hands on everything taken so far, but for the last `keepBytes`; what was held goes in any case. */
  async handOn(keepBytes: number): Promise<void> {
    const held = this.#held;
    this.#held = null;
    if (held !== null && held.length > 0) await this.#handOn(held);
    const first = this.#first;
    const count = this.#takenBytes - keepBytes;
    if (first === null || count <= 0) return;
    await this.#handOn(new Uint8Array(first.buffer, first.byteOffset, count));
    this.#first = keepBytes === 0 ? null : new Uint8Array(first.buffer, first.byteOffset + count, keepBytes);
    this.#takenBytes = keepBytes;
  }

  take(bytes: number): Uint8Array {
    const taken = this.#source.take(bytes);
    if (bytes > 0) this.#first ??= taken;
    this.#takenBytes += bytes;
    return taken;
  }

  u8(): number {
    return this.take(1)[0]!;
  }

  u16(): number {
    return viewOf(this.take(2)).getUint16(0);
  }

  u32(): number {
    return viewOf(this.take(4)).getUint32(0);
  }

  u64(): number {
    return u64be.get(viewOf(this.take(8)), 0, `byte ${this.position - 8}`);
  }
}
