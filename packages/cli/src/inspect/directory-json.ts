/**
 * Directory inspection as JSON; docs/inspect.md describes it. Integers that a double cannot hold are decimal texts.
 */
import { JsonMembers, type JsonValue, type StateNode } from "@multifd/protocol";
import { contentOf, type DirectoryInspection, type RangeSurvey } from "./directory-inspection.js";
import type { Json } from "./json.js";

/** @param wanted  Components to tell of. */
export function directoryJson(inspection: DirectoryInspection, wanted: StateNode | null): Record<string, Json> {
  const { path, fileBytes, config, ranges, unsaved } = inspection;
  return {
    path,
    form: "cloud-hypervisor",
    fileBytes,
    config: plainJson(config),
    ranges: ranges.map(rangeJson),
    unsaved: unsaved.map(({ gpa, lengthBytes }) => ({ gpa: plainJson(gpa), lengthBytes: plainJson(lengthBytes) })),
    state: wanted === null ? null : nodeJson(wanted),
  };
}

function rangeJson({ gpa, lengthBytes, fileOffsetBytes, zone, dataPages, zeroPages, sample }: RangeSurvey): Json {
  const zeroShare = zeroPages / (dataPages + zeroPages);
  return { gpa: plainJson(gpa), lengthBytes, fileOffsetBytes, zone, dataPages, zeroPages, zeroShare, sample };
}

function nodeJson({ name, children, data }: StateNode): Json {
  const told = data.map(({ section, content }) => {
    const value = contentOf(content);
    const named = section === null ? {} : { section };
    return value instanceof Uint8Array
      ? { ...named, bytes: Buffer.from(value).toString("hex") }
      : { ...named, value: plainJson(value) };
  });
  return { name, data: told, components: children.map(nodeJson) };
}

/** Of members that repeat the last counts, as for every other reader. */
function plainJson(value: JsonValue): Json {
  if (typeof value === "bigint") return BigInt.asIntN(54, value) === value ? Number(value) : value.toString();
  if (value instanceof JsonMembers)
    return Object.fromEntries(value.members.map(([key, member]) => [key, plainJson(member)]));
  return Array.isArray(value) ? (value as readonly JsonValue[]).map(plainJson) : (value as Json);
}
