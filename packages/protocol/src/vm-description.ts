/**
 * VM description: the JSON at the stream's end that names every field of every device section.
 *
 * Device sections carry no lengths; only this text, which comes after them,
 * tells where each one ends. It is parsed into plain types here, and
 * `device-sections.ts` walks the bytes with it.
 *
 * Lists and versioned structs repeat keys inside one JSON object, so of a field
 * that is not a plain struct only its name, type and size are trusted.
 *
 * Source: QEMU 10.2, migration/vmstate.c, vmsd_desc_field_start(); migration/savevm.c, vmstate_save().
 */

import { ProtocolError } from "./errors.js";

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
  /** What an element consists of; null if only its size is known. */
  readonly struct: StateDescription | null;
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
const NODES_MAX = 4_000_000;

/**
 * Parses a VM description and checks its shape.
 *
 * @throws {ProtocolError} DESCRIPTION_SYNTAX, DESCRIPTION_SHAPE or DESCRIPTION_TOO_LARGE.
 */
export function parseVmDescription(text: string): VmDescription {
  if (text.length > TEXT_LENGTH_MAX) throw tooLarge(`the text is longer than ${TEXT_LENGTH_MAX} characters`);
  const budget = { nodes: NODES_MAX };
  const top = asObject(parseJson(text), "the text");
  return {
    pageBytes: asCount(top.page_size, "page_size"),
    devices: asArray(top.devices, "devices", budget).map((device, i) => parseDevice(device, `devices[${i}]`, budget)),
  };
}

type Budget = { nodes: number };

/** A JSON object of the description before its members are checked. */
type JsonObject = {
  readonly [Key in
    | "page_size"
    | "devices"
    | "name"
    | "instance_id"
    | "vmsd_name"
    | "version"
    | "fields"
    | "subsections"
    | "type"
    | "size"
    | "array_len"
    | "struct"]?: unknown;
};

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new ProtocolError("DESCRIPTION_SYNTAX", "VM description: the text is not JSON; the stream is damaged", {
      cause,
    });
  }
}

function parseDevice(value: unknown, path: string, budget: Budget): DeviceDescription {
  const device = asObject(value, path);
  const name = asText(device.name, `${path}.name`);
  const where = `${path} (${name})`;
  const instance = asInteger(device.instance_id, `${where}.instance_id`);
  return {
    name,
    instanceId: instance >>> 0, // written signed by some releases, compared unsigned
    state:
      device.vmsd_name === undefined
        ? { opaqueBytes: asCount(device.size, `${where}.size`) }
        : parseState(device, where, budget, 0),
  };
}

function parseState(state: JsonObject, path: string, budget: Budget, depth: number): StateDescription {
  if (depth > DEPTH_MAX) throw tooLarge(`${path} is nested deeper than ${DEPTH_MAX} levels`);
  const subsections = state.subsections;
  return {
    name: asText(state.vmsd_name, `${path}.vmsd_name`),
    version: asCount(state.version, `${path}.version`),
    fields: asArray(state.fields, `${path}.fields`, budget).map((field, i) =>
      parseField(field, `${path}.fields[${i}]`, budget, depth),
    ),
    subsections:
      subsections === undefined
        ? []
        : asArray(subsections, `${path}.subsections`, budget).map((subsection, i) => {
            const where = `${path}.subsections[${i}]`;
            return parseState(asObject(subsection, where), where, budget, depth + 1);
          }),
  };
}

function parseField(value: unknown, path: string, budget: Budget, depth: number): FieldDescription {
  const field = asObject(value, path);
  const name = asText(field.name, `${path}.name`);
  const where = `${path} (${name})`;
  const type = asText(field.type, `${where}.type`);
  const struct = field.struct;
  return {
    name,
    type,
    elementBytes: asCount(field.size, `${where}.size`),
    count: field.array_len === undefined ? 1 : asCount(field.array_len, `${where}.array_len`),
    struct:
      type === "struct" && struct !== undefined
        ? parseState(asObject(struct, `${where}.struct`), `${where}.struct`, budget, depth + 1)
        : null,
  };
}

function asObject(value: unknown, path: string): JsonObject {
  if (typeof value === "object" && value !== null && !Array.isArray(value)) return value as JsonObject;
  throw wrongShape(path, "an object", value);
}

function asArray(value: unknown, path: string, budget: Budget): readonly unknown[] {
  if (!Array.isArray(value)) throw wrongShape(path, "an array", value);
  budget.nodes -= value.length;
  if (budget.nodes < 0) throw tooLarge(`it has more than ${NODES_MAX} fields`);
  return value;
}

function asText(value: unknown, path: string): string {
  if (typeof value === "string") return value;
  throw wrongShape(path, "text", value);
}

function asInteger(value: unknown, path: string): number {
  if (Number.isSafeInteger(value)) return value as number;
  throw wrongShape(path, "an integer", value);
}

function asCount(value: unknown, path: string): number {
  const count = asInteger(value, path);
  if (count >= 0) return count;
  throw wrongShape(path, "no negative number", value);
}

function wrongShape(path: string, due: string, came: unknown): ProtocolError {
  const what = came === undefined ? "nothing" : typeof came === "number" ? String(came) : kindOf(came);
  const message = `VM description, ${path}: ${due} was due, ${what} came; the stream is damaged`;
  return new ProtocolError("DESCRIPTION_SHAPE", message);
}

function kindOf(value: unknown): string {
  if (value === null) return "null";
  return Array.isArray(value) ? "an array" : `a value of type ${typeof value}`;
}

function tooLarge(what: string): ProtocolError {
  return new ProtocolError("DESCRIPTION_TOO_LARGE", `VM description: ${what}; the stream is damaged or hostile`);
}
