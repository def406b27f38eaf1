/**
 * State reader: takes one device's saved state apart, field after field.
 *
 * Device state has no lengths to trust: what a field takes is known from the
 * field, and whether it is there from the bytes that are left. So every read
 * is checked against the section's end, every count by its caller against a
 * limit, and an error names the device, the byte and the field.
 */

import { ProtocolError, placeError } from "../errors.js";
import { type Layout, type ValuesOf, viewOf } from "../layout.js";
import { SECTION_SUBSECTION } from "../main-stream.js";
import { decodeText } from "../wire-text.js";

const REMEDY = "the section is damaged, or its device is newer than this program";

export class StateReader {
  /** Whose state it is, for messages: the section's name. */
  readonly device: string;
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  #at = 0;

  constructor(device: string, bytes: Uint8Array) {
    this.device = device;
    this.#bytes = bytes;
    this.#view = viewOf(bytes);
  }

  get at(): number {
    return this.#at;
  }

  get left(): number {
    return this.#bytes.length - this.#at;
  }

  u8(what: string): number {
    return this.#view.getUint8(this.#advance(1, what));
  }

  u16(what: string): number {
    return this.#view.getUint16(this.#advance(2, what));
  }

  u32(what: string): number {
    return this.#view.getUint32(this.#advance(4, what));
  }

  u64(what: string): bigint {
    return this.#view.getBigUint64(this.#advance(8, what));
  }

  /** A byte that says yes or no. */
  flag(what: string): boolean {
    const came = this.u8(what);
    if (came > 1) throw this.refused("VIRTIO_FLAG", what, `${came} came, 0 or 1 was due; ${REMEDY}`);
    return came === 1;
  }

  /** A copy of the next `count` bytes. */
  bytes(count: number, what: string): Uint8Array<ArrayBuffer> {
    const at = this.#advance(count, what);
    return this.#bytes.slice(at, at + count) as Uint8Array<ArrayBuffer>;
  }

  /** @param which  Which of several, for messages. */
  layout<F>(layout: Layout<F>, which = ""): ValuesOf<F> {
    const at = this.#advance(layout.size, layout.name);
    try {
      return layout.decode(this.#view, at);
    } catch (error) {
      throw placeError(error, `${this.device}, byte ${at}${which}`);
    }
  }

  /** @param count  Checked here against the bytes that are left, before anything is made for it. */
  array<F>(layout: Layout<F>, count: number): ValuesOf<F>[] {
    this.#need(layout.size * count, `${count} × ${layout.name}`);
    return Array.from({ length: count }, (_, i) => this.layout(layout, `, number ${i}`));
  }

  /**
   * The name of the subsection that begins `ahead` bytes on, if one does and its name begins with `prefix`.
   *
   * Only so can a subsection be told from the bytes of the level above: one that bears another name is not this level's.
   */
  peekSubsection(prefix: string, ahead = 0): string | null {
    const at = this.#at + ahead;
    const name = at + 2;
    if (name > this.#bytes.length || this.#bytes[at] !== SECTION_SUBSECTION) return null;
    const end = name + this.#bytes[at + 1]!;
    if (end > this.#bytes.length) return null;
    const text = String.fromCharCode(...this.#bytes.subarray(name, end));
    return text.startsWith(prefix) ? text : null;
  }

  /** Takes a subsection's header, which `peekSubsection` has seen. */
  subsection(): { readonly name: string; readonly version: number } {
    const what = "subsection header";
    this.#advance(1, what);
    const length = this.u8(what);
    const at = this.#advance(length, what);
    const name = decodeText(this.#bytes.subarray(at, at + length), `${this.device}, byte ${at}, ${what}`);
    return { name, version: this.u32(`subsection "${name}"`) };
  }

  /** @throws {ProtocolError} VIRTIO_TRAILING_BYTES, unless everything was read. */
  end(): void {
    if (this.left === 0) return;
    const next = this.peekSubsection("");
    const what =
      next === null ? `${this.left} bytes are left over` : `the subsection ${JSON.stringify(next)} is unknown`;
    throw this.refused("VIRTIO_TRAILING_BYTES", "end of the state", `${what}; ${REMEDY}`);
  }

  refused(code: string, what: string, message: string): ProtocolError {
    return new ProtocolError(code, `${this.device}, byte ${this.#at}, ${what}: ${message}`);
  }

  /** What a count is held to before it is looped over. */
  bounded(count: number, max: number, what: string): number {
    if (count <= max) return count;
    throw this.refused("VIRTIO_COUNT", what, `${count} came, ${max} at most were due; ${REMEDY}`);
  }

  #advance(bytes: number, what: string): number {
    this.#need(bytes, what);
    const at = this.#at;
    this.#at += bytes;
    return at;
  }

  #need(bytes: number, what: string): void {
    if (bytes <= this.left) return;
    throw this.refused("VIRTIO_TRUNCATED", what, `${bytes} bytes were due, ${this.left} are left; ${REMEDY}`);
  }
}
