/**
 * State tree: a VM's components and what each of them saved, as State and `state.json` have it.
 *
 * A tree of objects; each may bear its component's own data, which is serialized a second time
 * inside the first. Three generations differ in how:
 *
 *   up to 28.0   {"id", "snapshots": {name: …}, "snapshot_data": {section: {"id", "snapshot": [byte, …]}}}
 *   29.0 … 38.0  {"snapshots": {name: …}, "snapshot_data": [byte, …] or null}
 *   from 39.0    {"snapshots": {name: …}, "snapshot_data": {"state": "JSON text"} or null}
 *
 * Only read: State travels and is stored byte for byte.
 * Source: Cloud Hypervisor 25.0, 29.0, 39.0 and 53.0, vm-migration/src/lib.rs, Snapshot.
 */
import { ProtocolError, placeError } from "../errors.js";
import { type JsonLimits, JsonMembers, type JsonValue, parseJsonText } from "../json-text.js";
import { decodeText } from "../wire-text.js";

export type StateNode = {
  /** The component's name in its parent; of the root, `vm`. */
  readonly name: string;
  readonly children: readonly StateNode[];
  /** At most one from 29.0 on. */
  readonly data: readonly StateData[];
};

/** What a component saved: JSON text, or what its release's binary serializer wrote. */
export type StateData = {
  /** Before 29.0; null since. */
  readonly section: string | null;
  readonly content: string | Uint8Array;
};

export const STATE_BYTES_MAX = 256 * 2 ** 20;
/** A level of the tree is an object in an object; devices are three levels deep. */
const DEPTH_MAX = 64;
/** Before 39.0 every byte is a value. */
const LIMITS: JsonLimits = { charactersMax: STATE_BYTES_MAX, depthMax: 3 * DEPTH_MAX, valuesMax: 32_000_000 };

/**
 * Reads a whole State.
 *
 * @throws {ProtocolError} WIRE_TEXT, JSON_SYNTAX, JSON_TOO_LARGE, STATE_SHAPE.
 */
export function readStateTree(state: Uint8Array): StateNode {
  return readNode("vm", parseState(state));
}

/** A component by its path below the root; null if there is none. */
export function findStateNode(root: StateNode, ...path: readonly string[]): StateNode | null {
  let node: StateNode | undefined = root;
  for (const name of path) node = node?.children.find((child) => child.name === name);
  return node ?? null;
}

/** Reads JSON from bytes, its errors told with their place. @throws {ProtocolError} JSON_SYNTAX, JSON_TOO_LARGE. */
export function parseStateText(text: string, place: string): JsonValue {
  try {
    return parseJsonText(text, LIMITS);
  } catch (error) {
    throw placeError(error, place);
  }
}

function parseState(state: Uint8Array): JsonValue {
  if (state.length > STATE_BYTES_MAX)
    throw new ProtocolError(
      "JSON_TOO_LARGE",
      `the state has ${state.length} bytes, at most ${STATE_BYTES_MAX} are read`,
    );
  return parseStateText(decodeText(state, "the state"), "the state");
}

function readNode(name: string, value: JsonValue): StateNode {
  if (!(value instanceof JsonMembers)) throw wrong(name, "is no object");
  const snapshots = value.last("snapshots") ?? null;
  if (snapshots !== null && !(snapshots instanceof JsonMembers))
    throw wrong(name, 'has "snapshots" that are no object');
  const children = snapshots?.members.map(([key, child]) => readNode(key, child)) ?? [];
  return { name, children, data: readData(name, value.last("snapshot_data") ?? null) };
}

function readData(name: string, data: JsonValue): readonly StateData[] {
  if (data === null) return [];
  if (Array.isArray(data)) return [{ section: null, content: readContent(name, data as readonly JsonValue[]) }];
  if (!(data instanceof JsonMembers)) throw wrong(name, 'has "snapshot_data" that is neither object nor list');
  const state = data.last("state");
  if (typeof state === "string") return [{ section: null, content: state }];
  return data.members.map(([section, value]) => {
    const bytes = value instanceof JsonMembers ? value.last("snapshot") : undefined;
    if (!Array.isArray(bytes)) throw wrong(name, `has a section "${section}" without a list of bytes`);
    return { section, content: readContent(name, bytes as readonly JsonValue[]) };
  });
}

/** Components that had no binary form wrote JSON into the bytes. */
function readContent(name: string, list: readonly JsonValue[]): string | Uint8Array {
  const bytes = new Uint8Array(list.length);
  for (const [i, value] of list.entries()) {
    if (typeof value !== "number" || !Number.isInteger(value) || value < 0 || value > 255)
      throw wrong(name, `has data whose element ${i} is no byte`);
    bytes[i] = value;
  }
  if (bytes[0] !== 0x7b) return bytes;
  try {
    const text = decodeText(bytes, name);
    parseJsonText(text, LIMITS);
    return text;
  } catch {
    return bytes; // binary data may begin with any byte
  }
}

function wrong(name: string, what: string): ProtocolError {
  return new ProtocolError("STATE_SHAPE", `the state: component "${name}" ${what}; is it one of Cloud Hypervisor's?`);
}
