/**
 * Field values: what the bytes of one described field mean, by the type that the description gives.
 *
 * The type is a name that QEMU chose for a way of encoding; numbers are
 * big-endian. A type that is not in the table, or one that comes in another size
 * than its own, stays bytes: nothing is guessed.
 *
 * Source: QEMU 10.2, migration/vmstate-types.c.
 */

import { viewOf } from "./layout.js";
import { hex64 } from "./wire-fields.js";

/** Integers are exact: a bigint where a number could not hold them. A float64 that is no number is text. */
export type Scalar = null | boolean | number | bigint | string;

type ScalarType = { readonly bytes: number; readonly read: (view: DataView, at: number) => Scalar };

const u8: ScalarType = { bytes: 1, read: (view, at) => view.getUint8(at) };
const u16: ScalarType = { bytes: 2, read: (view, at) => view.getUint16(at) };
const u32: ScalarType = { bytes: 4, read: (view, at) => view.getUint32(at) };
const u64: ScalarType = { bytes: 8, read: (view, at) => exact(view.getBigUint64(at)) };
const i8: ScalarType = { bytes: 1, read: (view, at) => view.getInt8(at) };
const i16: ScalarType = { bytes: 2, read: (view, at) => view.getInt16(at) };
const i32: ScalarType = { bytes: 4, read: (view, at) => view.getInt32(at) };
const i64: ScalarType = { bytes: 8, read: (view, at) => exact(view.getBigInt64(at)) };
const f64: ScalarType = { bytes: 8, read: (view, at) => float(view, at) };

/** "equal" and "less or equal" (le) are what the destination checks, not how it is encoded. */
const SCALARS: ReadonlyMap<string, ScalarType> = new Map([
  ["bool", { bytes: 1, read: (view, at) => truth(view.getUint8(at)) }],
  ["uint8", u8],
  ["uint8 equal", u8],
  ["uint16", u16],
  ["uint16 equal", u16],
  ["uint32", u32],
  ["uint32 equal", u32],
  ["uint64", u64],
  ["uint64 equal", u64],
  ["int64 equal", u64], // the name under which QEMU files its uint64 equality type
  ["int8", i8],
  ["int16", i16],
  ["int32", i32],
  ["int32 equal", i32],
  ["int32 le", i32],
  ["int64", i64],
  ["timer", i64], // nanoseconds of the timer's clock; -1 when it is not set
  ["CPU_Double_U", f64],
  ["float64", f64],
  ["nullptr", { bytes: 1, read: (view, at) => (view.getUint8(at) === NULL_POINTER_MARK ? null : view.getUint8(at)) }],
]);

/** The digit "0": QEMU's mark for an element that is not there. */
const NULL_POINTER_MARK = 0x30;

/** A name behind its length; the one type that is text. */
const CAPABILITY = "capability";

/** Bytes of one such value; null for a type that is no scalar. */
export function scalarBytes(type: string): number | null {
  return SCALARS.get(type)?.bytes ?? null;
}

/**
 * Reads `count` scalars that follow each other.
 *
 * @param bytes  Exactly theirs: `count * scalarBytes(type)`.
 */
export function readScalars(type: string, bytes: Uint8Array, count: number): readonly Scalar[] {
  const scalar = SCALARS.get(type)!;
  const view = viewOf(bytes);
  return Array.from({ length: count }, (_, i) => scalar.read(view, i * scalar.bytes));
}

/** A text behind its length in one byte, as capabilities are sent; null if the bytes are not that. */
export function readCapability(type: string, bytes: Uint8Array): string | null {
  if (type !== CAPABILITY || bytes.length === 0 || bytes[0] !== bytes.length - 1) return null;
  const text = String.fromCharCode(...bytes.subarray(1));
  return /^[\x20-\x7e]*$/.test(text) ? text : null;
}

function exact(value: bigint): number | bigint {
  const number = Number(value);
  return Number.isSafeInteger(number) ? number : value;
}

function truth(byte: number): boolean | number {
  return byte > 1 ? byte : byte === 1;
}

/** Its upper word comes first, which makes it big-endian as a whole. */
function float(view: DataView, at: number): number | string {
  const value = view.getFloat64(at);
  if (Number.isFinite(value)) return value;
  return `${value} (${hex64(view.getUint32(at), view.getUint32(at + 4))})`;
}
