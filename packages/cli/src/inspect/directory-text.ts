/**
 * Directory inspection text: a snapshot directory, for people: the VM, its RAM, its components.
 */
import { JsonMembers, type JsonValue, type StateNode } from "@multifd/protocol";
import { formatBytes } from "../quantities.js";
import { contentOf, type DirectoryInspection } from "./directory-inspection.js";
import { table } from "./table.js";

/** Longer lists of plain values are told by their length and their beginning. */
const ELEMENTS_SHOWN = 8;
const TEXT_SHOWN = 100;

/**
 * Tells an inspection, piece by piece.
 *
 * @param wanted    Components to tell of.
 * @param depthMax  Levels of what each saved; 0 lists the components alone.
 */
export function* directoryText(
  inspection: DirectoryInspection,
  wanted: StateNode | null,
  depthMax: number,
): Generator<string> {
  const { fileBytes, config, ranges, unsaved } = inspection;
  yield lines([
    "form           Cloud Hypervisor snapshot",
    `size           ${formatBytes(fileBytes)}`,
    "",
    "configuration",
    ...valueLines(config, 1, 3),
  ]);
  const rows = ranges.map(({ gpa, lengthBytes, zone, dataPages, zeroPages, sample }) => [
    `0x${gpa.toString(16)}`,
    zone || "-",
    formatBytes(lengthBytes),
    `${dataPages}`,
    `${zeroPages}`,
    `${((100 * zeroPages) / (dataPages + zeroPages)).toFixed(1)} %`,
    sample === null ? "-" : `${(sample.sampledBytes / sample.compressedBytes).toFixed(2)} : 1`,
  ]);
  yield lines([
    "",
    `${ranges.length} RAM ranges`,
    ...table(["address", "zone", "size", "data pages", "zero pages", "zero", "zstd 1"], rows),
    ...unsaved.map(
      ({ gpa, lengthBytes }) =>
        `  0x${gpa.toString(16)}: ${lengthBytes} bytes are not here, but in the zone's own file`,
    ),
  ]);
  yield lines(["", "components"]);
  if (wanted !== null) yield* nodeText(wanted, 1, depthMax);
}

function* nodeText(node: StateNode, level: number, depthMax: number): Generator<string> {
  const sizes = node.data.map(({ section, content }) => {
    const kind = typeof content === "string" ? "JSON" : "binary";
    return `${section === null ? "" : `${section}: `}${Buffer.byteLength(content)} bytes of ${kind}`;
  });
  yield lines([`${indent(level)}${node.name}${sizes.length === 0 ? "" : `  (${sizes.join(", ")})`}`]);
  if (depthMax > 0) {
    for (const { content } of node.data) {
      const value = contentOf(content);
      if (!(value instanceof Uint8Array)) yield lines(valueLines(value, level + 1, depthMax));
    }
  }
  for (const child of node.children) yield* nodeText(child, level + 1, depthMax);
}

/** A structure's members one per line; those deeper than `depth` levels are told by their number. */
function valueLines(value: JsonValue, level: number, depth: number): string[] {
  const members: readonly (readonly [string, JsonValue])[] =
    value instanceof JsonMembers
      ? value.members
      : Array.isArray(value)
        ? (value as readonly JsonValue[]).map((element, i) => [`${i}`, element] as const)
        : [["", value]];
  return members.flatMap(([key, member]) => {
    const short = shortText(member, depth === 1);
    if (short !== null) return [`${indent(level)}${key} = ${short}`];
    return [`${indent(level)}${key}`, ...valueLines(member, level + 1, depth - 1)];
  });
}

/** What fits on a line; null for a structure that is to be opened. */
function shortText(value: JsonValue, closed: boolean): string | null {
  if (value instanceof JsonMembers) {
    if (value.members.length === 0) return "{}";
    return closed ? `{${value.members.length} members}` : null;
  }
  if (Array.isArray(value)) {
    const elements = value as readonly JsonValue[];
    if (elements.every((element) => !isStructure(element))) {
      const shown = elements.slice(0, ELEMENTS_SHOWN).map((element) => shortText(element, true));
      const rest = elements.length > ELEMENTS_SHOWN ? `, … ${elements.length} in all` : "";
      return `[${shown.join(", ")}${rest}]`;
    }
    return closed ? `[${elements.length} elements]` : null;
  }
  if (typeof value !== "string") return String(value);
  const text = JSON.stringify(value);
  return text.length <= TEXT_SHOWN ? text : `${text.slice(0, TEXT_SHOWN)}… (${value.length} characters)`;
}

function isStructure(value: JsonValue): boolean {
  return value instanceof JsonMembers || Array.isArray(value);
}

function indent(level: number): string {
  return "  ".repeat(level);
}

function lines(texts: readonly string[]): string {
  return texts.map((text) => `${text}\n`).join("");
}
