/**
 * Byte writer: control messages whose length depends on what they say.
 *
 * Fixed formats are layouts; this is for the lists and names between them. Not
 * for the hot path: it grows as it goes.
 */

import { viewOf } from "./layout.js";
import { u8, u16be, u32be, u64be, u64beExact, type ValueField } from "./wire-fields.js";
import { encodeText } from "./wire-text.js";

export class ByteWriter {
  #buffer = new Uint8Array(64);
  #view = viewOf(this.#buffer);
  #end = 0;

  /** Bytes written so far. */
  get length(): number {
    return this.#end;
  }

  u8(value: number): this {
    return this.#number(u8, value);
  }

  u16(value: number): this {
    return this.#number(u16be, value);
  }

  u32(value: number): this {
    return this.#number(u32be, value);
  }

  u64(value: number): this {
    return this.#number(u64be, value);
  }

  u64Exact(value: bigint): this {
    return this.#number(u64beExact, value);
  }

  bytes(bytes: Uint8Array): this {
    const at = this.#grow(bytes.length);
    this.#buffer.set(bytes, at);
    return this;
  }

  /** A name behind its length in one byte. */
  name(name: string): this {
    const text = encodeText(name);
    return this.u8(text.length).bytes(text);
  }

  /** What was written so far, as a copy. */
  finish(): Uint8Array<ArrayBuffer> {
    return this.#buffer.slice(0, this.#end);
  }

  #number<V>(field: ValueField<V>, value: V): this {
    const at = this.#grow(field.bytes);
    field.put(this.#view, at, value, "control message");
    return this;
  }

  #grow(bytes: number): number {
    const at = this.#end;
    this.#end += bytes;
    if (this.#end > this.#buffer.length) {
      const room = new Uint8Array(2 * this.#end);
      room.set(this.#buffer.subarray(0, at));
      this.#buffer = room;
      this.#view = viewOf(room);
    }
    return at;
  }
}
