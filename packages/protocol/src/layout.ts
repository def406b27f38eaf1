/**
 * Layouts: a wire format written as a table, and what can be done with it.
 *
 * A layout lists its fields in wire order and states the size that the
 * specification gives; loading the module fails if the two disagree, so a
 * forgotten field never gets as far as a peer. Everything is packed. Fields with
 * a fixed value (a magic number, reserved bytes) are part of the table but not of
 * the values: encoding writes them, decoding checks them.
 *
 * Decoding checks form only. Whether a length is sensible is for the caller.
 * Wrong bytes from a peer raise a ProtocolError; wrong values from our own
 * code are a defect and raise a RangeError.
 */
import { ProtocolError } from "./errors.js";
import type { FixedField, ValueField } from "./wire-fields.js";

type AnyField = (Omit<ValueField<never>, "get"> & { readonly get: ValueField<unknown>["get"] }) | FixedField;

/** The values of a layout: every field but the fixed ones. */
export type ValuesOf<F> = {
  readonly [K in keyof F as F[K] extends FixedField ? never : K]: F[K] extends ValueField<infer V> ? V : never;
};

export type Layout<F> = {
  readonly name: string;
  readonly size: number;
  readonly fields: F;
  /** Where the field starts, counted from the layout's first byte. */
  readonly offsetOf: (field: keyof F & string) => number;
  readonly encode: (values: ValuesOf<F>) => Uint8Array<ArrayBuffer>;
  /** Writes all `size` bytes from `at` on. */
  readonly encodeInto: (view: DataView, at: number, values: ValuesOf<F>) => void;
  /** @throws {ProtocolError} WIRE_TRUNCATED if `size` bytes are not there, or what a field refuses. */
  readonly decode: (from: Uint8Array | DataView, at?: number) => ValuesOf<F>;
};

/**
 * Builds a layout from its table.
 *
 * @param size  The size the specification gives.
 * @throws {RangeError} at load time, if the fields do not add up to `size`.
 */
export function layout<const F extends Readonly<Record<string, AnyField>>>(
  name: string,
  fields: F,
  { size }: { readonly size: number },
): Layout<F> {
  const places = placeFields(name, fields);
  const total = places.reduce((sum, { field }) => sum + field.bytes, 0);
  if (total !== size) throw new RangeError(`${name}: fields take ${total} bytes, the specification says ${size}`);
  const offsets = new Map(places.map((place) => [place.key, place.offset]));

  const encodeInto = (view: DataView, at: number, values: ValuesOf<F>): void => {
    const record = values as Readonly<Record<string, unknown>>;
    for (const { key, field, offset, where } of places) {
      if (field.kind === "fixed") field.fill(view, at + offset);
      else field.put(view, at + offset, record[key] as never, where);
    }
  };
  return {
    name,
    size,
    fields,
    offsetOf: (field) => offsets.get(field)!,
    encodeInto,
    encode: (values) => {
      const out = new Uint8Array(size);
      encodeInto(new DataView(out.buffer), 0, values);
      return out;
    },
    decode: (from, at = 0) => {
      const view = from instanceof DataView ? from : viewOf(from);
      if (view.byteLength - at < size)
        throw new ProtocolError("WIRE_TRUNCATED", `${name}: ${view.byteLength - at} bytes came, ${size} were due`);
      const values: Record<string, unknown> = {};
      for (const { key, field, offset, where } of places) {
        if (field.kind === "fixed") field.check(view, at + offset, where);
        else values[key] = field.get(view, at + offset, where);
      }
      return values as ValuesOf<F>;
    },
  };
}

type Place = { readonly key: string; readonly field: AnyField; readonly offset: number; readonly where: string };

function placeFields(name: string, fields: Readonly<Record<string, AnyField>>): Place[] {
  let offset = 0;
  return Object.entries(fields).map(([key, field]) => {
    const place = { key, field, offset, where: `${name}, ${key}` };
    offset += field.bytes;
    return place;
  });
}

/** A DataView over the same bytes; nothing is copied. */
export function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
