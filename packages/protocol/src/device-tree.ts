/**
 * Device tree: what a device section holds, as a tree of named fields.
 *
 * Every node knows its bytes: `at` counts from the stream's first byte (or from
 * wherever the caller let it count), so a value can be found in the file again. A
 * device keeps its raw bytes too, for a decoder that knows more of it than the
 * description tells, as with virtio.
 */

import type { Scalar } from "./field-values.js";

export type Place = { readonly at: number; readonly lengthBytes: number };

/** One device section. */
export type DecodedDevice = Place & {
  /** Its identity in the stream (QEMU: idstr), such as `0000:00:02.0/e1000`. */
  readonly name: string;
  readonly instanceId: number;
  readonly version: number;
  readonly sectionId: number;
  /** Name of the state description; null for a device that saves bytes which it does not describe. */
  readonly vmsdName: string | null;
  /** The state alone: header and footer are left out. A view into the bytes that were decoded. */
  readonly bytes: Uint8Array;
  readonly state: DecodedState;
};

/** A described state: the device's own, a struct, an element of a list, or a subsection. */
export type DecodedState = Place & {
  readonly name: string;
  readonly version: number;
  readonly fields: readonly DecodedField[];
  readonly subsections: readonly DecodedState[];
};

export type DecodedField = Place & {
  readonly name: string;
  /** As the description gives it: `uint32`, `struct`, `qtailq`, `timer`, … */
  readonly type: string;
  /** Its place, where the elements of one array are fields of their own. */
  readonly index: number | null;
  readonly content: FieldContent;
};

export type FieldContent =
  | { readonly kind: "scalar"; readonly value: Scalar }
  | { readonly kind: "scalars"; readonly values: readonly Scalar[] }
  /** A struct, vstruct or tmp. */
  | { readonly kind: "state"; readonly state: DecodedState }
  /** An array of structs, or a list's elements. */
  | { readonly kind: "states"; readonly states: readonly DecodedState[] }
  /** A tree's elements; a key that is no state of its own is a number. */
  | { readonly kind: "entries"; readonly entries: readonly DecodedEntry[] }
  /** Buffers, bitmaps, and types that only the device understands. `note` says why something better was not had. */
  | { readonly kind: "bytes"; readonly bytes: Uint8Array; readonly note: string | null };

export type DecodedEntry = { readonly key: Scalar | DecodedState; readonly value: DecodedState };

/** Bytes that no field accounts for. */
export type Unaccounted = Place & {
  /** The section that they lie in; null between sections. */
  readonly section: string | null;
  readonly reason: string;
};

export type DecodedDevices = {
  readonly devices: readonly DecodedDevice[];
  /** Empty where every byte has its field. */
  readonly unaccounted: readonly Unaccounted[];
};
