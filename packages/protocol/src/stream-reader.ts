/**
 * Stream reader: a byte source together with how its errors speak of it.
 *
 * Every refusal of the main stream names the byte it happened at; every wait
 * names what was being waited for.
 */

import { type ByteSource, need } from "./byte-source.js";
import { ProtocolError } from "./errors.js";
import { decodeText } from "./wire-text.js";

export class StreamReader {
  readonly source: ByteSource;
  readonly #channel: string;

  /** @param channel  As messages call it: "main channel". */
  constructor(source: ByteSource, channel: string) {
    this.source = source;
    this.#channel = channel;
  }

  /** Waits for bytes; costs a turn of the event loop, so ask `source.available` first where it matters. */
  need(bytes: number, what: string): Promise<void> {
    return need(this.source, bytes, this.#channel, what);
  }

  async u8(what: string): Promise<number> {
    await this.need(1, what);
    return this.source.u8();
  }

  async u16(what: string): Promise<number> {
    await this.need(2, what);
    return this.source.u16();
  }

  async u32(what: string): Promise<number> {
    await this.need(4, what);
    return this.source.u32();
  }

  /** @throws {ProtocolError} WIRE_NUMBER_TOO_LARGE from 2^53 on. */
  async u64(what: string): Promise<number> {
    await this.need(8, what);
    return this.source.u64();
  }

  /** @returns A copy. */
  async bytes(count: number, what: string): Promise<Uint8Array> {
    await this.need(count, what);
    return this.source.take(count).slice();
  }

  async text(bytes: number, what: string): Promise<string> {
    await this.need(bytes, what);
    return decodeText(this.source.take(bytes), this.place(what));
  }

  /** A name behind its length in one byte. */
  async name(what: string): Promise<string> {
    return this.text(await this.u8(what), what);
  }

  place(what: string): string {
    return `${this.#channel}, byte ${this.source.position}, ${what}`;
  }

  /** An error that says where; `message` says what came, what was due and what to do. */
  refused(code: string, what: string, message: string): ProtocolError {
    return new ProtocolError(code, `${this.place(what)}: ${message}`);
  }
}
