/**
 * Byte source: a stream that is read in pieces smaller or larger than it arrives in.
 *
 * A decoder asks whether enough bytes are there, waits only if not, and then
 * takes them without awaiting: hundreds of thousands of nine-byte records cost
 * no turn of the event loop each. What `take` returns is a view into the
 * source's buffer and is good until the next `fill`.
 */

import { ChannelError } from "./errors.js";
import { viewOf } from "./layout.js";
import { u64be } from "./wire-fields.js";

export interface ByteSource {
  /** Bytes that can be taken now. */
  readonly available: number;
  /** Bytes taken so far. */
  readonly position: number;
  /** Waits until `bytes` bytes are available; false if the stream ends before. */
  fill(bytes: number): Promise<boolean>;
  /** Takes available bytes; the view is valid until the next `fill`. */
  take(bytes: number): Uint8Array;
  u8(): number;
  u16(): number;
  u32(): number;
  /** @throws {ProtocolError} WIRE_NUMBER_TOO_LARGE from 2^53 on. */
  u64(): number;
}

/** A byte source over a file, which can step over what nobody wants to read here. */
export interface SeekableSource extends ByteSource {
  /** Goes on at `position`, at or behind the present one; past the end of the file there is simply nothing. */
  seek(position: number): void;
}

/**
 * Waits until `bytes` bytes are available.
 *
 * @param channel  Which stream, for the message: "main channel".
 * @param what     What the bytes belong to, for the message: "the RAM block list".
 * @throws {ChannelError} STREAM_CUT, if the stream ends before.
 */
export async function need(source: ByteSource, bytes: number, channel: string, what: string): Promise<void> {
  if (source.available >= bytes || (await source.fill(bytes))) return;
  const end = source.position + source.available;
  const message = `${channel}, byte ${end}: the stream ended inside ${what}; see why the peer closed the connection, then migrate again`;
  throw new ChannelError("STREAM_CUT", message);
}

const EMPTY = new Uint8Array(0);

/**
 * A byte source over chunks as they come from a socket or a file.
 *
 * A chunk is read in place. Only what a read leaves over is joined with the
 * next chunk, in a buffer that doubles, so every byte is copied a bounded number of times.
 * The chunks must not change until they are read.
 */
export class ChunkSource implements ByteSource {
  readonly #chunks: AsyncIterator<Uint8Array>;
  #buffer: Uint8Array = EMPTY;
  #view: DataView = viewOf(EMPTY);
  /** Only a buffer of our own may be written behind `#end`. */
  #owned = false;
  #start = 0;
  #end = 0;
  #taken = 0;

  constructor(chunks: AsyncIterable<Uint8Array>) {
    this.#chunks = chunks[Symbol.asyncIterator]();
  }

  get available(): number {
    return this.#end - this.#start;
  }

  get position(): number {
    return this.#taken;
  }

  async fill(bytes: number): Promise<boolean> {
    while (this.#end - this.#start < bytes) {
      const { done, value } = await this.#chunks.next();
      if (done) return false;
      this.#append(value);
    }
    return true;
  }

  take(bytes: number): Uint8Array {
    const start = this.#advance(bytes);
    return this.#buffer.subarray(start, start + bytes);
  }

  u8(): number {
    return this.#view.getUint8(this.#advance(1));
  }

  u16(): number {
    return this.#view.getUint16(this.#advance(2));
  }

  u32(): number {
    return this.#view.getUint32(this.#advance(4));
  }

  u64(): number {
    return u64be.get(this.#view, this.#advance(8), `byte ${this.#taken - 8}`);
  }

  #advance(bytes: number): number {
    const start = this.#start;
    if (bytes > this.#end - start) throw new RangeError(`${bytes} bytes taken, ${this.#end - start} available`);
    this.#start = start + bytes;
    this.#taken += bytes;
    return start;
  }

  #append(chunk: Uint8Array): void {
    const left = this.#end - this.#start;
    if (left === 0) {
      this.#adopt(chunk, chunk.length, false);
      return;
    }
    const due = left + chunk.length;
    if (!this.#owned || this.#end + chunk.length > this.#buffer.length) {
      const room = new Uint8Array(2 * due);
      room.set(this.#buffer.subarray(this.#start, this.#end));
      this.#adopt(room, left, true);
    }
    this.#buffer.set(chunk, this.#end);
    this.#end += chunk.length;
  }

  #adopt(buffer: Uint8Array, end: number, owned: boolean): void {
    this.#buffer = buffer;
    this.#view = viewOf(buffer);
    this.#owned = owned;
    this.#start = 0;
    this.#end = end;
  }
}
