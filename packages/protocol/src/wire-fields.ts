/**
 * Wire fields: what a layout is made of, each knowing how its bytes are written and read.
 *
 * The names of number fields tell their byte order. A number is exact or refused;
 * where any 64 bits may come, there are fields that bear a bigint.
 */
import { ProtocolError } from "./errors.js";
import { decodeText, encodeText } from "./wire-text.js";

/** A field that bears a value of the decoded object. */
export type ValueField<V> = {
  readonly kind: "value";
  readonly bytes: number;
  readonly put: (view: DataView, at: number, value: V, where: string) => void;
  readonly get: (view: DataView, at: number, where: string) => V;
};

/** A field whose bytes are known beforehand. */
export type FixedField = {
  readonly kind: "fixed";
  readonly bytes: number;
  readonly fill: (view: DataView, at: number) => void;
  readonly check: (view: DataView, at: number, where: string) => void;
};

/** What a mismatch in a fixed field is called, and what to do about it. */
export type Mismatch = { readonly code: string; readonly remedy: string };

/** A number that may be pinned to one value. */
export type NumberField = ValueField<number> & {
  readonly equals: (due: number, mismatch?: Mismatch) => FixedField;
};

function numberField(
  bytes: number,
  max: number,
  read: (view: DataView, at: number, where: string) => number,
  write: (view: DataView, at: number, value: number) => void,
): NumberField {
  return {
    kind: "value",
    bytes,
    get: read,
    put: (view, at, value, where) => {
      if (!(Number.isInteger(value) && value >= 0 && value <= max))
        throw new RangeError(`${where}: ${value} does not fit into ${bytes} bytes`);
      write(view, at, value);
    },
    equals: (due, mismatch) => ({
      kind: "fixed",
      bytes,
      fill: (view, at) => write(view, at, due),
      check: (view, at, where) => {
        const came = read(view, at, where);
        if (came === due) return;
        const { code, remedy } = mismatch ?? {
          code: "WIRE_CONSTANT",
          remedy: "the stream is damaged or of another kind",
        };
        throw new ProtocolError(
          code,
          `${where}: 0x${came.toString(16)} came, 0x${due.toString(16)} was due; ${remedy}`,
        );
      },
    }),
  };
}

/** One byte. */
export const u8 = numberField(
  1,
  0xff,
  (view, at) => view.getUint8(at),
  (view, at, value) => view.setUint8(at, value),
);

export const u16be = numberField(
  2,
  0xffff,
  (view, at) => view.getUint16(at),
  (view, at, value) => view.setUint16(at, value),
);

export const u32be = numberField(
  4,
  0xffffffff,
  (view, at) => view.getUint32(at),
  (view, at, value) => view.setUint32(at, value),
);

/** Eight bytes as a number: exact, for decoding refuses what a number cannot hold (2^53 and above). */
export const u64be = numberField(
  8,
  Number.MAX_SAFE_INTEGER,
  (view, at, where) => exact64(view.getUint32(at), view.getUint32(at + 4), where),
  (view, at, value) => {
    view.setUint32(at, value / 2 ** 32);
    view.setUint32(at + 4, value); // stores modulo 2^32
  },
);

export const u16le = numberField(
  2,
  0xffff,
  (view, at) => view.getUint16(at, true),
  (view, at, value) => view.setUint16(at, value, true),
);

export const u32le = numberField(
  4,
  0xffffffff,
  (view, at) => view.getUint32(at, true),
  (view, at, value) => view.setUint32(at, value, true),
);

/** Eight bytes as a number, as `u64be`. */
export const u64le = numberField(
  8,
  Number.MAX_SAFE_INTEGER,
  (view, at, where) => exact64(view.getUint32(at + 4, true), view.getUint32(at, true), where),
  (view, at, value) => {
    view.setUint32(at, value, true); // stores modulo 2^32
    view.setUint32(at + 4, value / 2 ** 32, true);
  },
);

/** @throws {ProtocolError} WIRE_NUMBER_TOO_LARGE, if a number cannot hold it. */
function exact64(high: number, low: number, where: string): number {
  if (high < 2 ** 21) return high * 2 ** 32 + low;
  throw new ProtocolError(
    "WIRE_NUMBER_TOO_LARGE",
    `${where}: ${hex64(high, low)} came, values below 2^53 were due; the stream is damaged or hostile`,
  );
}

function bigintField(littleEndian: boolean): ValueField<bigint> {
  return {
    kind: "value",
    bytes: 8,
    get: (view, at) => view.getBigUint64(at, littleEndian),
    put: (view, at, value, where) => {
      if (value < 0n || value >= 1n << 64n) throw new RangeError(`${where}: ${value} does not fit into 8 bytes`);
      view.setBigUint64(at, value, littleEndian);
    },
  };
}

/** Eight bytes of which each bit has its own meaning. */
export const bits64le = bigintField(true);

/** Eight bytes as a bigint: any value, exact. For what a guest or a device may set to anything; never on the hot path. */
export const u64beExact = bigintField(false);

/** A 64-bit number in two halves, for messages: exact where a number is not. */
export function hex64(high: number, low: number): string {
  const text = high === 0 ? low.toString(16) : high.toString(16) + low.toString(16).padStart(8, "0");
  return `0x${text}`;
}

/** Bytes without a meaning: sent as zeros, ignored on arrival. */
export function reserved(bytes: number): FixedField {
  return {
    kind: "fixed",
    bytes,
    fill: (view, at) => new Uint8Array(view.buffer, view.byteOffset + at, bytes).fill(0),
    check: () => {},
  };
}

/** Raw bytes; decoding copies them. */
export function bytes(count: number): ValueField<Uint8Array> {
  return {
    kind: "value",
    bytes: count,
    get: (view, at) => new Uint8Array(view.buffer, view.byteOffset + at, count).slice(),
    put: (view, at, value, where) => {
      if (value.length !== count) throw new RangeError(`${where}: ${value.length} bytes given, ${count} needed`);
      new Uint8Array(view.buffer, view.byteOffset + at, count).set(value);
    },
  };
}

/**
 * Text that ends with a zero byte inside `count` bytes; what follows the zero
 * byte is sent as zeros and ignored on arrival (older peers leave stale bytes).
 *
 * A packet mostly bears the text of the packet before it, so the last one is kept in both forms.
 */
export function cstring(count: number): ValueField<string> {
  let last = { text: "", bytes: new Uint8Array(1) };
  return {
    kind: "value",
    bytes: count,
    get: (view, at, where) => {
      if (!startsWith(view, at, last.bytes)) {
        const field = new Uint8Array(view.buffer, view.byteOffset + at, count);
        const length = field.indexOf(0);
        if (length < 0)
          throw new ProtocolError("WIRE_UNTERMINATED", `${where}: no zero byte within ${count} bytes ends the text`);
        last = { text: decodeText(field.subarray(0, length), where), bytes: field.slice(0, length + 1) };
      }
      return last.text;
    },
    put: (view, at, value, where) => {
      if (value !== last.text) {
        const text = encodeText(`${value}\0`);
        if (text.length > count || text.indexOf(0) < text.length - 1)
          throw new RangeError(`${where}: "${value}" does not fit into ${count} bytes with the zero byte that ends it`);
        last = { text: value, bytes: text };
      }
      const field = new Uint8Array(view.buffer, view.byteOffset + at, count);
      field.set(last.bytes);
      field.fill(0, last.bytes.length);
    },
  };
}

function startsWith(view: DataView, at: number, bytes: Uint8Array): boolean {
  for (let i = 0; i < bytes.length; i++) if (view.getUint8(at + i) !== bytes[i]) return false;
  return true;
}
