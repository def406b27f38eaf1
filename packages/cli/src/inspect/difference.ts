/**
 * Difference: what two streams say differently: configuration, RAM blocks, devices and their fields.
 *
 * Things are paired by what identifies them, never by where they lie: blocks and
 * subsections by name, devices by name and instance, fields by name and index (and by
 * order, where one name comes again). Section ids are each source's own numbering. What RAM holds
 * is not compared: of two saves of a guest that ran, all would differ.
 */
import type { DecodedDevice, DecodedField, DecodedState, FieldContent, Scalar } from "@multifd/protocol";
import { contentText, scalarText } from "./field-text.js";
import type { Inspection } from "./inspection.js";
import { contentJson } from "./inspection-json.js";
import type { Json } from "./json.js";
import { summarizeVirtio } from "./virtio-summary.js";

/** What one side says; null where it has nothing of the kind. */
type Side = { readonly json: Json; readonly text: string } | null;

export type Difference = {
  /** `machine type`, `RAM block`, `device`, or `field`. */
  readonly what: string;
  /** Device and field, outermost first; or the block's name. */
  readonly path: readonly string[];
  readonly a: Side;
  readonly b: Side;
  /** In one line: where arrays or buffers differ, not all that they hold. */
  readonly text: string;
};

/** Elements or bytes of one field told in a line. */
const PARTS_TOLD_MAX = 4;

/** Compares two streams; an empty list means that nothing differs. */
export function differences(a: Inspection, b: Inspection): Difference[] {
  return [
    ...configurationDifferences(a, b),
    ...pairs(a.blocks, b.blocks, ({ name }) => name).flatMap(([name, left, right]) =>
      whereUnequal("RAM block", [name], plain(left?.lengthBytes, "bytes"), plain(right?.lengthBytes, "bytes")),
    ),
    ...pairs(a.devices, b.devices, deviceKey).flatMap(([name, left, right]) => deviceDifferences(name, left, right)),
  ];
}

function configurationDifferences(a: Inspection, b: Inspection): Difference[] {
  return [
    ...whereUnequal("machine type", [], plain(a.machineType), plain(b.machineType)),
    ...whereUnequal("page size", [], plain(a.pageBytes, "bytes"), plain(b.pageBytes, "bytes")),
    ...whereUnequal("capabilities", [], list(a.capabilities), list(b.capabilities)),
    ...whereUnequal("UUID", [], plain(a.uuid ?? undefined), plain(b.uuid ?? undefined)),
  ];
}

function deviceKey({ name, instanceId }: DecodedDevice): string {
  return instanceId === 0 ? name : `${name} (instance ${instanceId})`;
}

function deviceDifferences(
  name: string,
  a: DecodedDevice | undefined,
  b: DecodedDevice | undefined,
): readonly Difference[] {
  if (a === undefined || b === undefined) return whereUnequal("device", [name], deviceSide(a), deviceSide(b));
  return [
    ...whereUnequal("version", [name], plain(a.version), plain(b.version)),
    ...stateDifferences([name], a.state, b.state),
    ...virtioDifferences(name, a, b),
  ];
}

/** What differs inside the one field that the description tells of a virtio device. */
function virtioDifferences(name: string, a: DecodedDevice, b: DecodedDevice): Difference[] {
  const [left, right] = [summarizeVirtio(a), summarizeVirtio(b)];
  if (left === null || right === null) return [];
  return pairs(leaves(left), leaves(right), ([path]) => path).flatMap(([path, one, other]) =>
    whereUnequal("field", [name, "virtio", path], leafSide(one?.[1]), leafSide(other?.[1])),
  );
}

/** Every value within, under a path such as `queues[0].size`; an empty array is a value too. */
function leaves(value: Json, path = ""): (readonly [path: string, value: Json])[] {
  if (Array.isArray(value) && value.length > 0)
    return value.flatMap((element: Json, i) => leaves(element, `${path}[${i}]`));
  if (typeof value !== "object" || value === null || Array.isArray(value)) return [[path, value]];
  return Object.entries(value).flatMap(([key, member]) => leaves(member, path === "" ? key : `${path}.${key}`));
}

function leafSide(value: Json | undefined): Side {
  return value === undefined ? null : { json: value, text: value === null ? "none" : String(value) };
}

function deviceSide(device: DecodedDevice | undefined): Side {
  return plain(device?.lengthBytes, "bytes");
}

function stateDifferences(path: readonly string[], a: DecodedState, b: DecodedState): Difference[] {
  return [
    ...pairs(singleFields(a), singleFields(b), fieldKey).flatMap(([key, left, right]) =>
      fieldDifferences([...path, key], left, right),
    ),
    ...pairs(a.subsections, b.subsections, ({ name }) => name).flatMap(([key, left, right]) => {
      if (left !== undefined && right !== undefined) return stateDifferences([...path, key], left, right);
      return whereUnequal("subsection", [...path, key], stateSide(left), stateSide(right));
    }),
  ];
}

/** Arrays of structs are described as one field or as a field for each element, as releases please. */
function singleFields({ fields }: DecodedState): DecodedField[] {
  return fields.flatMap((field) => {
    const { content } = field;
    if (content.kind !== "states") return [field];
    return content.states.map((state, index): DecodedField => {
      const { at, lengthBytes } = state;
      return { ...field, at, lengthBytes, index: (field.index ?? 0) + index, content: { kind: "state", state } };
    });
  });
}

function fieldKey({ name, index }: DecodedField): string {
  return index === null ? name : `${name}[${index}]`;
}

function fieldDifferences(
  path: readonly string[],
  a: DecodedField | undefined,
  b: DecodedField | undefined,
): readonly Difference[] {
  if (a !== undefined && b !== undefined) {
    const [left, right] = [statesOf(a.content), statesOf(b.content)];
    if (left !== null && right !== null) return elementDifferences(path, left, right);
  }
  const parts = a === undefined || b === undefined ? null : partsText(a, b);
  return whereUnequal(
    "field",
    path,
    a === undefined ? null : fieldSide(a),
    b === undefined ? null : fieldSide(b),
    parts,
  );
}

/** Where two arrays or two buffers of the same length differ; null for anything else. */
function partsText(a: DecodedField, b: DecodedField): string | null {
  const [left, right] = [partsOf(a), partsOf(b)];
  if (left === null || right === null || left.length !== right.length) return null;
  const told: string[] = [];
  let count = 0;
  for (let i = 0; i < left.length; i++) {
    if (left[i] === right[i]) continue;
    count += 1;
    if (told.length < PARTS_TOLD_MAX) told.push(`[${i}] ${partText(a, left[i]!)} → ${partText(b, right[i]!)}`);
  }
  const rest = count > told.length ? `, … ${count - told.length} more of ${left.length}` : "";
  return `${told.join(", ")}${rest}`;
}

function partsOf({ content }: DecodedField): ArrayLike<Scalar> | null {
  if (content.kind === "scalars") return content.values;
  return content.kind === "bytes" ? content.bytes : null;
}

function partText({ type, content }: DecodedField, part: Scalar): string {
  return content.kind === "bytes" ? Number(part).toString(16).padStart(2, "0") : scalarText(type, part);
}

/** The states in a field, under the names by which their like on the other side is found. */
function statesOf(content: FieldContent): readonly (readonly [string, DecodedState])[] | null {
  switch (content.kind) {
    case "state":
      return [["", content.state]];
    case "entries":
      return content.entries.flatMap(({ key, value }, i): (readonly [string, DecodedState])[] => {
        if (typeof key !== "object" || key === null) return [[`[${key}]`, value]];
        return [
          [`[${i}] key`, key],
          [`[${i}] value`, value],
        ];
      });
    default:
      return null;
  }
}

function elementDifferences(
  path: readonly string[],
  a: readonly (readonly [string, DecodedState])[],
  b: readonly (readonly [string, DecodedState])[],
): Difference[] {
  return pairs(a, b, ([key]) => key).flatMap(([key, left, right]) => {
    const within = key === "" ? path : [...path.slice(0, -1), `${path.at(-1)}${key}`];
    if (left !== undefined && right !== undefined) return stateDifferences(within, left[1], right[1]);
    return whereUnequal("element", within, stateSide(left?.[1]), stateSide(right?.[1]));
  });
}

function fieldSide({ type, content, lengthBytes }: DecodedField): Side {
  const [json] = Object.values(contentJson(content));
  return { json: json ?? null, text: contentText(type, content) ?? `${type}, ${lengthBytes} bytes` };
}

function stateSide(state: DecodedState | undefined): Side {
  return plain(state?.lengthBytes, "bytes");
}

function plain(value: string | number | undefined, unit?: string): Side {
  return value === undefined ? null : { json: value, text: unit === undefined ? `${value}` : `${value} ${unit}` };
}

function list(values: readonly string[]): Side {
  return { json: values, text: values.join(", ") || "none" };
}

function whereUnequal(
  what: string,
  path: readonly string[],
  a: Side,
  b: Side,
  parts: string | null = null,
): readonly Difference[] {
  if (JSON.stringify(a?.json) === JSON.stringify(b?.json)) return [];
  return [{ what, path, a, b, text: parts ?? `${a?.text ?? "not there"} → ${b?.text ?? "not there"}` }];
}

/** Pairs what has the same key, in the order of `a`, then what only `b` has; a key that comes again is numbered. */
function pairs<T>(
  a: readonly T[],
  b: readonly T[],
  keyOf: (value: T) => string,
): readonly (readonly [key: string, a: T | undefined, b: T | undefined])[] {
  const [left, right] = [byKey(a, keyOf), byKey(b, keyOf)];
  const keys = new Set([...left.keys(), ...right.keys()]);
  return [...keys].map((key) => [key, left.get(key), right.get(key)]);
}

function byKey<T>(values: readonly T[], keyOf: (value: T) => string): Map<string, T> {
  const found = new Map<string, T>();
  const seen = new Map<string, number>();
  for (const value of values) {
    const key = keyOf(value);
    const again = seen.get(key) ?? 0;
    seen.set(key, again + 1);
    found.set(again === 0 ? key : `${key} (${again + 1})`, value);
  }
  return found;
}
