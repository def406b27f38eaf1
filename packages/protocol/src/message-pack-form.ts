/**
 * MessagePack form: whether a stranger's bytes may be handed to a MessagePack reader.
 *
 * A reader makes an array as long as the bytes claim before it has seen one of its elements, and
 * makes objects of extension types. So the claims are checked first: one value, to
 * the last byte, of nothing but nil, booleans, whole numbers, texts, arrays and maps
 * with texts for keys, no deeper than DEPTH_MAX, none with more members than bytes follow.
 *
 * Source: https://github.com/msgpack/msgpack/blob/master/spec.md, "Formats".
 */
import { ProtocolError } from "./errors.js";
import { viewOf } from "./layout.js";

const DEPTH_MAX = 4;

/**
 * @param what  Whose bytes they are, for the message.
 * @throws {ProtocolError} `code`.
 */
export function checkMessagePack(bytes: Uint8Array, what: string, code: string): void {
  const end = new FormWalk(bytes, what, code).value(0, 0);
  if (end === bytes.length) return;
  throw new ProtocolError(code, `${what}: ${bytes.length - end} bytes follow the map; the peer is no multifd`);
}

class FormWalk {
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  readonly #what: string;
  readonly #code: string;

  constructor(bytes: Uint8Array, what: string, code: string) {
    this.#bytes = bytes;
    this.#view = viewOf(bytes);
    this.#what = what;
    this.#code = code;
  }

  /** Walks over the value at `at`. @returns where it ends. */
  value(at: number, depth: number): number {
    this.#need(at, 1);
    const type = this.#bytes[at]!;
    if (type <= 0x7f || type === 0xc0 || type === 0xc2 || type === 0xc3) return at + 1;
    if (type <= 0x8f) return this.#map(at + 1, type & 0x0f, depth);
    if (type <= 0x9f) return this.#array(at + 1, type & 0x0f, depth);
    if (type <= 0xbf || type === 0xd9 || type === 0xda) return this.#text(at);
    switch (type) {
      case 0xcc:
        return this.#skip(at + 1, 1);
      case 0xcd:
        return this.#skip(at + 1, 2);
      case 0xce:
        return this.#skip(at + 1, 4);
      case 0xdc:
        this.#need(at + 1, 2);
        return this.#array(at + 3, this.#view.getUint16(at + 1), depth);
      case 0xde:
        this.#need(at + 1, 2);
        return this.#map(at + 3, this.#view.getUint16(at + 1), depth);
      default:
        throw this.#refused(`byte ${at} is 0x${type.toString(16)}, a type that is not due`);
    }
  }

  #array(at: number, members: number, depth: number): number {
    this.#enter(at, members, depth);
    let end = at;
    for (let i = 0; i < members; i++) end = this.value(end, depth + 1);
    return end;
  }

  #map(at: number, members: number, depth: number): number {
    this.#enter(at, 2 * members, depth);
    let end = at;
    for (let i = 0; i < members; i++) end = this.value(this.#text(end), depth + 1);
    return end;
  }

  #text(at: number): number {
    this.#need(at, 1);
    const type = this.#bytes[at]!;
    if (type >= 0xa0 && type <= 0xbf) return this.#skip(at + 1, type & 0x1f);
    if (type === 0xd9) {
      this.#need(at + 1, 1);
      return this.#skip(at + 2, this.#bytes[at + 1]!);
    }
    if (type !== 0xda) throw this.#refused(`byte ${at} is 0x${type.toString(16)}, a text was due`);
    this.#need(at + 1, 2);
    return this.#skip(at + 3, this.#view.getUint16(at + 1));
  }

  /** Every member takes a byte at least. */
  #enter(at: number, members: number, depth: number): void {
    if (depth >= DEPTH_MAX) throw this.#refused(`it is nested deeper than ${DEPTH_MAX}`);
    this.#need(at, members);
  }

  #skip(at: number, bytes: number): number {
    this.#need(at, bytes);
    return at + bytes;
  }

  #need(at: number, bytes: number): void {
    if (bytes <= this.#bytes.length - at) return;
    throw this.#refused(`${bytes} bytes were due at byte ${at}, it has ${this.#bytes.length}`);
  }

  #refused(how: string): ProtocolError {
    return new ProtocolError(this.#code, `${this.#what}: ${how}; the peer is no multifd`);
  }
}
