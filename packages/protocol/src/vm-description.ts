/**
 * VM description: the JSON at the stream's end that names every field of every device section.
 *
 * Device sections carry no lengths; only this text, which comes after them,
 * tells where each one ends. It is parsed into plain types here, and
 * `device-sections.ts` walks the bytes with it.
 *
 * A list repeats its members inside one JSON object, once per element; each run of
 * them becomes one of the field's `parts`. Where an end lies is told by name, type
 * and size alone: parts that make no sense are left out, not refused. A destination
 * needs no parts and is in a hurry, for the guest stands still meanwhile: it has them
 * left out, and `JSON.parse` reads the text, several times as fast.
 *
 * Source: QEMU 10.2, migration/vmstate.c, vmsd_desc_field_start(); migration/savevm.c, vmstate_save().
 */

import { MigrationError, ProtocolError } from "./errors.js";
import { JsonMembers, parseJsonText } from "./json-text.js";

/** What one state description (QEMU: VMStateDescription) says: fields in order, then subsections. */
export type StateDescription = {
  readonly name: string;
  readonly version: number;
  readonly fields: readonly FieldDescription[];
  readonly subsections: readonly StateDescription[];
};

export type FieldDescription = {
  readonly name: string;
  readonly type: string;
  /** Encoded bytes of one element, all that is nested in it included. */
  readonly elementBytes: number;
  /** Elements of this size that follow each other; 1 where it is no array. */
  readonly count: number;
  /** Its place, where an array's elements are described one by one (`count` of them from here on). */
  readonly index: number | null;
  /** What an element consists of; null if only its size is known. */
  readonly struct: StateDescription | null;
  /** Only if asked for. What is inside a vstruct, a tmp, or a list's elements in turn (a gtree's keys too), as far as the text tells. */
  readonly parts: readonly StateDescription[];
};

/** One device section, in stream order. */
export type DeviceDescription = {
  readonly name: string;
  readonly instanceId: number;
  readonly state: StateDescription | { readonly opaqueBytes: number };
};

export type VmDescription = {
  readonly pageBytes: number;
  readonly devices: readonly DeviceDescription[];
};

const DEPTH_MAX = 32;
const TEXT_LENGTH_MAX = 64 * 2 ** 20;
/** Names of sections and subsections stand behind one byte of length; those of fields are shorter still. */
const NAME_LENGTH_MAX = 255;
/** A level of ours takes a struct's object, its fields' array and a field's object. */
const JSON_LIMITS = { charactersMax: TEXT_LENGTH_MAX, depthMax: 4 * DEPTH_MAX, valuesMax: 16_000_000 };

/** `sizes`: without any `parts`, quickly. `parts`: all that the text says. */
export type DescriptionDetail = "sizes" | "parts";

/**
 * Parses a VM description and checks its shape.
 *
 * @throws {ProtocolError} DESCRIPTION_SYNTAX, DESCRIPTION_SHAPE or DESCRIPTION_TOO_LARGE.
 */
export function parseVmDescription(text: string, detail: DescriptionDetail = "sizes"): VmDescription {
  if (text.length > TEXT_LENGTH_MAX) throw tooLarge(`the text is longer than ${TEXT_LENGTH_MAX} characters`);
  const value = detail === "parts" ? parseFully(text) : parseQuickly(text);
  const top = asObject(value, { under: null, key: "the text" });
  return {
    pageBytes: countOf(top, "page_size", null),
    devices: arrayOf(top, "devices", null).map(parseDevice),
  };
}

function parseQuickly(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw noJson((cause as SyntaxError).message, cause);
  }
}

function parseFully(text: string): unknown {
  try {
    return parseJsonText(text, JSON_LIMITS);
  } catch (cause) {
    if (!(cause instanceof MigrationError)) throw cause;
    throw cause.code === "JSON_TOO_LARGE" ? tooLarge(cause.message) : noJson(cause.message, cause);
  }
}

function noJson(why: string, cause: unknown): ProtocolError {
  const message = `VM description: the text is not JSON (${why}); the stream is damaged`;
  return new ProtocolError("DESCRIPTION_SYNTAX", message, { cause });
}

/** A member of an object that either reader made. */
function memberOf(object: object, key: string): unknown {
  if (object instanceof JsonMembers) return object.last(key);
  return Object.hasOwn(object, key) ? (object as Readonly<Record<string, unknown>>)[key] : undefined;
}

/** Where in the text something stands; written out only for a refusal. bench/README.md, "Live guests". */
type Place = { readonly under: Place | null; readonly key: string; at?: number; name?: string };

function parseDevice(value: unknown, at: number): DeviceDescription {
  const place: Place = { under: null, key: "devices", at };
  const device = asObject(value, place);
  place.name = textOf(device, "name", place);
  const instance = integerOf(device, "instance_id", place);
  return {
    name: place.name,
    instanceId: instance >>> 0, // written signed by some releases, compared unsigned
    state:
      memberOf(device, "vmsd_name") === undefined
        ? { opaqueBytes: countOf(device, "size", place) }
        : parseState(device, place, 0),
  };
}

function parseState(state: object, place: Place, depth: number): StateDescription {
  if (depth > DEPTH_MAX) throw tooLarge(`${describePlace(place)} is nested deeper than ${DEPTH_MAX} levels`);
  const fields = arrayOf(state, "fields", place);
  return {
    name: textOf(state, "vmsd_name", place),
    version: countOf(state, "version", place),
    fields: numberElements(fields.map((field, at) => parseField(field, { under: place, key: "fields", at }, depth))),
    subsections:
      memberOf(state, "subsections") === undefined
        ? []
        : arrayOf(state, "subsections", place).map((subsection, at) => {
            const where: Place = { under: place, key: "subsections", at };
            return parseState(asObject(subsection, where), where, depth + 1);
          }),
  };
}

/**
 * QEMU 11.1 leaves the index out where it describes an array's elements one by one. Fields that merely share a name are
 * told apart by a suffix, so a name that comes again is the next element.
 */
function numberElements(fields: readonly FieldDescription[]): readonly FieldDescription[] {
  const counts = new Map<string, number>();
  for (const { name } of fields) counts.set(name, (counts.get(name) ?? 0) + 1);
  const next = new Map<string, number>();
  return fields.map((field) => {
    if (field.index !== null || counts.get(field.name) === 1) return field;
    const index = next.get(field.name) ?? 0;
    next.set(field.name, index + field.count);
    return { ...field, index };
  });
}

function parseField(value: unknown, place: Place, depth: number): FieldDescription {
  const field = asObject(value, place);
  const name = textOf(field, "name", place);
  place.name = name;
  const type = textOf(field, "type", place);
  const elementBytes = countOf(field, "size", place);
  const count = memberOf(field, "array_len") === undefined ? 1 : countOf(field, "array_len", place);
  const index = memberOf(field, "index") === undefined ? null : countOf(field, "index", place);
  const struct = type === "struct" ? memberOf(field, "struct") : undefined;
  if (struct === undefined)
    return { name, type, elementBytes, count, index, struct: null, parts: parseParts(field, place, depth + 1) };
  const where: Place = { under: place, key: "struct" };
  const state = parseState(asObject(struct, where), where, depth + 1);
  return { name, type, elementBytes, count, index, struct: state, parts: [] };
}

/** Cuts the repeated members apart: each part begins with a `vmsd_name`. */
function parseParts(field: object, place: Place, depth: number): readonly StateDescription[] {
  if (!(field instanceof JsonMembers)) return [];
  const { members } = field;
  const starts = members.flatMap(([key], i) => (key === "vmsd_name" ? [i] : []));
  try {
    return starts.map((start, at) => {
      const part = new JsonMembers(members.slice(start, starts[at + 1]));
      return parseState(part, { under: place, key: "parts", at }, depth);
    });
  } catch (error) {
    if (error instanceof ProtocolError && error.code === "DESCRIPTION_SHAPE") return []; // its size is all we need
    throw error;
  }
}

function asObject(value: unknown, place: Place): object {
  if (typeof value === "object" && value !== null && !Array.isArray(value)) return value;
  throw wrongShape(place, "an object", value);
}

function arrayOf(object: object, key: string, place: Place | null): readonly unknown[] {
  const value = memberOf(object, key);
  if (Array.isArray(value)) return value;
  throw wrongShape({ under: place, key }, "an array", value);
}

function textOf(object: object, key: string, place: Place): string {
  const value = memberOf(object, key);
  if (typeof value === "string" && value.length <= NAME_LENGTH_MAX) return value;
  const due = typeof value === "string" ? `a name of up to ${NAME_LENGTH_MAX} characters` : "text";
  throw wrongShape({ under: place, key }, due, value);
}

function integerOf(object: object, key: string, place: Place | null): number {
  const value = memberOf(object, key);
  if (Number.isSafeInteger(value)) return value as number;
  throw wrongShape({ under: place, key }, "an integer", value);
}

function countOf(object: object, key: string, place: Place | null): number {
  const count = integerOf(object, key, place);
  if (count >= 0) return count;
  throw wrongShape({ under: place, key }, "no negative number", count);
}

function wrongShape(place: Place, due: string, came: unknown): ProtocolError {
  const isNumber = typeof came === "number" || typeof came === "bigint";
  const what = came === undefined ? "nothing" : isNumber ? String(came) : kindOf(came);
  const message = `VM description, ${describePlace(place)}: ${due} was due, ${what} came; the stream is damaged`;
  return new ProtocolError("DESCRIPTION_SHAPE", message);
}

function describePlace({ under, key, at, name }: Place): string {
  const before = under === null ? "" : `${describePlace(under)}.`;
  return `${before}${key}${at === undefined ? "" : `[${at}]`}${name === undefined ? "" : ` (${name})`}`;
}

function kindOf(value: unknown): string {
  if (value === null) return "null";
  return Array.isArray(value) ? "an array" : `a value of type ${typeof value}`;
}

function tooLarge(what: string): ProtocolError {
  return new ProtocolError("DESCRIPTION_TOO_LARGE", `VM description: ${what}; the stream is damaged or hostile`);
}
