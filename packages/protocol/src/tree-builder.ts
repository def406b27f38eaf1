/**
 * Tree builder: listens to a walk over device state and keeps what it passes as a tree.
 *
 * States and fields nest as the walk opens and closes them. A field that holds no
 * described struct is read when it closes: by the table of types, or, for a list, by a walk of
 * its own over the field's bytes, since lists carry marks between their elements.
 * What such a walk refuses stays bytes with a note; the size was told, so
 * nothing behind it is lost.
 *
 * What is kept is counted: a hostile description must not turn a byte into a megabyte.
 *
 * Source: QEMU 10.2, migration/vmstate-types.c, put_qtailq(), put_gtree(), put_tmp().
 */

import { DeviceWalk, type WalkListener } from "./device-sections.js";
import type { DecodedEntry, DecodedField, DecodedState, FieldContent } from "./device-tree.js";
import { ProtocolError } from "./errors.js";
import { readCapability, readScalars, scalarBytes } from "./field-values.js";
import type { FieldDescription, StateDescription } from "./vm-description.js";

const ELEMENT_MARK = 1;
const END_MARK = 0;

/** Described by their elements, so one without elements has no parts. */
const LISTS: ReadonlySet<string> = new Set(["qtailq", "qlist", "gtree"]);

/** What a tree may still grow by: fields, states, and the values of arrays. */
export type TreeBudget = { nodesLeft: number };

/** As many values of an array weigh as much as a field. */
const VALUES_PER_NODE = 16;

/** Of a real machine with hundreds of vCPUs and devices a tenth. */
export const TREE_NODES_MAX = 2 ** 20;

type OpenState = {
  readonly description: StateDescription;
  readonly at: number;
  readonly fields: DecodedField[];
  readonly subsections: DecodedState[];
};

type OpenField = { readonly description: FieldDescription; readonly at: number; readonly states: DecodedState[] };

export class TreeBuilder implements WalkListener {
  /** Finished outermost states: one for a device, more for a list's elements. */
  readonly states: DecodedState[] = [];
  readonly #bytes: Uint8Array;
  readonly #origin: number;
  readonly #budget: TreeBudget;
  readonly #open: ({ kind: "state"; state: OpenState } | { kind: "field"; field: OpenField })[] = [];

  /** @param origin  Added to every place in the tree. */
  constructor(bytes: Uint8Array, origin: number, budget: TreeBudget) {
    this.#bytes = bytes;
    this.#origin = origin;
    this.#budget = budget;
  }

  readonly openState = (description: StateDescription, at: number): void => {
    this.#charge(at);
    this.#open.push({ kind: "state", state: { description, at, fields: [], subsections: [] } });
  };

  readonly openField = (description: FieldDescription, at: number): void => {
    this.#charge(at);
    this.#open.push({ kind: "field", field: { description, at, states: [] } });
  };

  readonly closeState = (at: number): void => {
    const top = this.#open.pop();
    if (top?.kind !== "state") throw new Error("a state closes that is not open");
    const { description, at: start, fields, subsections } = top.state;
    const { name, version } = description;
    const state = { name, version, at: this.#origin + start, lengthBytes: at - start, fields, subsections };
    const parent = this.#open.at(-1);
    if (parent === undefined) this.states.push(state);
    else if (parent.kind === "field") parent.field.states.push(state);
    else parent.state.subsections.push(state);
  };

  readonly closeField = (at: number): void => {
    const top = this.#open.pop();
    const parent = this.#open.at(-1);
    if (top?.kind !== "field" || parent?.kind !== "state") throw new Error("a field closes that is not open");
    const { description, at: start, states } = top.field;
    const content =
      description.struct === null || description.elementBytes === 0
        ? this.#readLeaf(description, start, at)
        : structContent(description, states);
    const { name, type, index } = description;
    parent.state.fields.push({ name, type, index, at: this.#origin + start, lengthBytes: at - start, content });
  };

  /** Closes what is open, because the walk ended at `at` in the middle; the tree so far stays. */
  abandon(at: number): void {
    while (this.#open.length > 0) {
      const top = this.#open.at(-1)!;
      if (top.kind === "state") this.closeState(at);
      else if (top.field.states.length > 0) this.closeField(at);
      else this.#open.pop(); // nothing of it was read
    }
  }

  #charge(at: number): void {
    this.#budget.nodesLeft -= 1;
    if (this.#budget.nodesLeft >= 0) return;
    const message = `device state, byte ${this.#origin + at}: more than ${TREE_NODES_MAX} fields and values; the description is damaged or hostile`;
    throw new ProtocolError("DEVICE_TREE_SIZE", message);
  }

  #readLeaf(field: FieldDescription, start: number, end: number): FieldContent {
    const bytes = this.#bytes.subarray(start, end);
    if (field.parts.length > 0 || LISTS.has(field.type)) return this.#readList(field, start, end, bytes);
    const text = readCapability(field.type, bytes);
    if (text !== null) return { kind: "scalar", value: text };
    const cost = Math.ceil(field.count / VALUES_PER_NODE);
    if (field.elementBytes !== scalarBytes(field.type) || cost > this.#budget.nodesLeft)
      return { kind: "bytes", bytes, note: null };
    this.#budget.nodesLeft -= cost;
    const values = readScalars(field.type, bytes, field.count);
    return field.count === 1 ? { kind: "scalar", value: values[0]! } : { kind: "scalars", values };
  }

  #readList(field: FieldDescription, start: number, end: number, bytes: Uint8Array): FieldContent {
    const inner = new TreeBuilder(this.#bytes, this.#origin, this.#budget);
    const walk = new DeviceWalk(this.#bytes.subarray(0, end), inner, { at: start, origin: this.#origin });
    const where = `field "${field.name}"`;
    try {
      const content = walkParts(field, walk, inner, where);
      if (walk.at !== end) throw walk.refused(where, `${end - walk.at} bytes are left behind its last element`);
      return content;
    } catch (error) {
      if (error instanceof ProtocolError && error.code === "DEVICE_SECTION")
        return { kind: "bytes", bytes, note: error.message };
      throw error;
    }
  }
}

function structContent({ count }: FieldDescription, states: readonly DecodedState[]): FieldContent {
  const [only] = states;
  return count === 1 && only !== undefined ? { kind: "state", state: only } : { kind: "states", states };
}

/** Reads a field by its parts; what they are depends on the field's type. */
function walkParts(field: FieldDescription, walk: DeviceWalk, built: TreeBuilder, where: string): FieldContent {
  const { type, parts, count } = field;
  switch (type) {
    case "qtailq":
    case "qlist":
      if (count !== 1) throw walk.refused(where, `an array of ${count} lists is described by its first one only`);
      for (const part of parts) {
        walk.expect(ELEMENT_MARK, where);
        walk.state(part, where);
      }
      walk.expect(END_MARK, where);
      return { kind: "states", states: built.states };
    case "gtree":
      if (count !== 1) throw walk.refused(where, `an array of ${count} trees is described by its first one only`);
      return { kind: "entries", entries: walkEntries(parts, walk, built, where) };
    default:
      // vstruct and tmp: the first element's description stands for all.
      for (let element = 0; element < count; element++) walk.state(parts[0]!, where);
      return structContent(field, built.states);
  }
}

/** A tree's elements: keys are states where there are twice as many parts, else 64-bit numbers. */
function walkEntries(
  parts: readonly StateDescription[],
  walk: DeviceWalk,
  built: TreeBuilder,
  where: string,
): DecodedEntry[] {
  const count = walk.u32(where);
  const hasKeyStates = parts.length === 2 * count;
  if (!hasKeyStates && parts.length !== count)
    throw walk.refused(where, `${count} elements came, ${parts.length} parts are described`);
  const entries = Array.from({ length: count }, (_, i): DecodedEntry => {
    walk.expect(ELEMENT_MARK, where);
    const key = hasKeyStates ? walkState(walk, built, parts[2 * i]!, where) : walk.u64(where);
    return { key, value: walkState(walk, built, parts[hasKeyStates ? 2 * i + 1 : i]!, where) };
  });
  walk.expect(END_MARK, where);
  return entries;
}

function walkState(walk: DeviceWalk, built: TreeBuilder, part: StateDescription, where: string): DecodedState {
  walk.state(part, where);
  return built.states.at(-1)!;
}
