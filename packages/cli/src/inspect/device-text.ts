/**
 * Device text: a device's tree of fields, indented, for people.
 *
 * A line is a field; a struct's or list's elements follow it, two columns further in. Neighbours in a list, or
 * in an array that QEMU writes as a field each, are told once where they have the same bytes. Of a virtio device the description tells one field alone: what
 * lies in it follows.
 */
import type { DecodedDevice, DecodedField, DecodedState } from "@multifd/protocol";
import { contentText, scalarText } from "./field-text.js";
import { summarizeVirtio } from "./virtio-summary.js";
import { virtioLines } from "./virtio-text.js";

const NAME_WIDTH_MAX = 32;

/** Fields of an array with consecutive indexes and the same bytes: the first of them, and how many. */
type FieldRun = { readonly field: DecodedField; count: number };

/**
 * Tells one device, its head line first.
 *
 * @param depthMax  Levels of fields below the head line; structs at the last level are told by their size.
 */
export function deviceLines(device: DecodedDevice, depthMax: number): string[] {
  const { name, instanceId, version, at, lengthBytes, state } = device;
  const head = `${name}  instance ${instanceId}, version ${version}, ${lengthBytes} bytes at 0x${at.toString(16)}`;
  const virtio = summarizeVirtio(device);
  const virtioText = virtio === null ? [] : virtioLines(virtio).map((line) => indent(1) + line);
  return [head, ...new TreeText(device, depthMax).stateLines(state, 1), ...virtioText];
}

class TreeText {
  readonly #device: DecodedDevice;
  readonly #depthMax: number;

  constructor(device: DecodedDevice, depthMax: number) {
    this.#device = device;
    this.#depthMax = depthMax;
  }

  stateLines(state: DecodedState, depth: number): string[] {
    if (depth > this.#depthMax) return [];
    const runs = this.#runsOf(state.fields);
    const labels = runs.map(labelOf);
    const widest = labels.reduce((most, label) => Math.max(most, label.length), 0);
    const width = Math.min(NAME_WIDTH_MAX, widest);
    return [
      ...runs.flatMap(({ field }, i) => this.#fieldLines(field, labels[i]!.padEnd(width), depth)),
      ...state.subsections.flatMap((subsection) => [
        `${indent(depth)}+ ${subsection.name}  version ${subsection.version}`,
        ...this.stateLines(subsection, depth + 1),
      ]),
    ];
  }

  /** The fields, with those of an array that are like the one before them counted to that. */
  #runsOf(fields: readonly DecodedField[]): FieldRun[] {
    const runs: FieldRun[] = [];
    for (const field of fields) {
      const last = runs.at(-1);
      if (last !== undefined && this.#continues(last, field)) last.count++;
      else runs.push({ field, count: 1 });
    }
    return runs;
  }

  #continues({ field, count }: FieldRun, next: DecodedField): boolean {
    if (field.index === null || next.index !== field.index + count) return false;
    if (next.name !== field.name || next.type !== field.type || next.lengthBytes === 0) return false;
    return this.#bytesOf(next).equals(this.#bytesOf(field));
  }

  #fieldLines(field: DecodedField, label: string, depth: number): string[] {
    const { content, type } = field;
    const line = (text: string) => `${indent(depth)}${label}  ${text}`;
    const text = contentText(type, content);
    if (text !== null) return [line(content.kind === "bytes" ? `${text}${typeNote(type)}` : text)];
    switch (content.kind) {
      case "state":
        return [line(stateText(content.state)), ...this.stateLines(content.state, depth + 1)];
      case "states":
        return [line(`[${content.states.length}] ${type}`), ...this.#elementLines(content.states, depth + 1)];
      case "entries":
        return [
          line(`[${content.entries.length}] ${type}`),
          ...content.entries.flatMap(({ key, value }) => this.#entryLines(key, value, depth + 1)),
        ];
      default:
        return [];
    }
  }

  /** Neighbours of the same bytes share their lines. */
  #elementLines(states: readonly DecodedState[], depth: number): string[] {
    if (depth > this.#depthMax) return [];
    const lines: string[] = [];
    for (let start = 0, at = 0; start < states.length; start = at) {
      while (at < states.length && this.#bytesOf(states[at]!).equals(this.#bytesOf(states[start]!))) at++;
      const numbers = at - start === 1 ? `[${start}]` : `[${start}…${at - 1}], all alike`;
      lines.push(`${indent(depth)}${numbers}`, ...this.stateLines(states[start]!, depth + 1));
    }
    return lines;
  }

  #entryLines(key: DecodedState | Parameters<typeof scalarText>[1], value: DecodedState, depth: number): string[] {
    if (depth > this.#depthMax) return [];
    const isState = typeof key === "object" && key !== null;
    const keyLines = isState
      ? [`${indent(depth)}key`, ...this.stateLines(key, depth + 1)]
      : [`${indent(depth)}key ${scalarText("uint64", key)}`];
    return [...keyLines, `${indent(depth)}value`, ...this.stateLines(value, depth + 1)];
  }

  #bytesOf({ at, lengthBytes }: { readonly at: number; readonly lengthBytes: number }): Buffer {
    const { bytes, state } = this.#device;
    const start = at - state.at;
    return Buffer.from(bytes.buffer, bytes.byteOffset + start, lengthBytes);
  }
}

function labelOf({ field: { name, index }, count }: FieldRun): string {
  if (index === null) return name;
  return count === 1 ? `${name}[${index}]` : `${name}[${index}…${index + count - 1}]`;
}

function stateText({ name, version, lengthBytes }: DecodedState): string {
  return `${name}  version ${version}, ${lengthBytes} bytes`;
}

/** Buffers are called so often that it says nothing. */
function typeNote(type: string): string {
  return type === "buffer" ? "" : ` (${type})`;
}

function indent(depth: number): string {
  return "  ".repeat(depth);
}
