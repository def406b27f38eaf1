/**
 * Inspection as JSON: one object with all that was read; docs/inspect.md describes it.
 *
 * Devices come one by one, for together they may be longer than a text can be. Numbers are exact: an integer that a double cannot hold is a decimal text. Bytes
 * are hexadecimal text.
 */
import type { DecodedDevice, DecodedState, FieldContent, Scalar } from "@multifd/protocol";
import type { Inspection } from "./inspection.js";
import type { Json } from "./json.js";
import type { BlockSurvey } from "./ram-survey.js";
import { summarizeVirtio } from "./virtio-summary.js";

/** Everything but the devices. */
export function inspectionJson(inspection: Inspection): Record<string, Json> {
  const { blocks, unaccounted } = inspection;
  return {
    path: inspection.path,
    form: inspection.form,
    fileBytes: inspection.fileBytes,
    machineType: inspection.machineType,
    pageBytes: inspection.pageBytes,
    capabilities: inspection.capabilities,
    uuid: inspection.uuid,
    commands: inspection.commands,
    flushes: inspection.flushes,
    blocks: blocks.map(blockJson),
    deviceBytes: inspection.deviceBytes,
    unaccounted: unaccounted.map(({ section, at, lengthBytes, reason }) => ({ section, at, lengthBytes, reason })),
  };
}

function blockJson(block: BlockSurvey): Json {
  const { name, lengthBytes, from, dataPages, zeroPages, absentPages, sample } = block;
  const zero = zeroShare(block);
  return { name, lengthBytes, from, dataPages, zeroPages, absentPages, zeroShare: zero, sample };
}

/** Of the pages that were seen, how many are zero; null if none was. */
export function zeroShare({ dataPages, zeroPages }: BlockSurvey): number | null {
  const seen = dataPages + zeroPages;
  return seen === 0 ? null : zeroPages / seen;
}

export function deviceJson(device: DecodedDevice): Json {
  const { name, instanceId, version, sectionId, vmsdName, at, lengthBytes, state } = device;
  const told = { name, instanceId, version, sectionId, vmsdName, at, lengthBytes, state: stateJson(state) };
  const virtio = summarizeVirtio(device);
  return virtio === null ? told : { ...told, virtio };
}

function stateJson(state: DecodedState): Json {
  const { name, version, at, lengthBytes, fields, subsections } = state;
  return {
    name,
    version,
    at,
    lengthBytes,
    fields: fields.map((field) => ({
      name: field.name,
      ...(field.index === null ? {} : { index: field.index }),
      type: field.type,
      at: field.at,
      lengthBytes: field.lengthBytes,
      ...contentJson(field.content),
    })),
    subsections: subsections.map(stateJson),
  };
}

/** The member that bears a field's content, named after what it is. */
export function contentJson(content: FieldContent): { readonly [key: string]: Json } {
  switch (content.kind) {
    case "scalar":
      return { value: scalarJson(content.value) };
    case "scalars":
      return { values: content.values.map(scalarJson) };
    case "state":
      return { state: stateJson(content.state) };
    case "states":
      return { states: content.states.map(stateJson) };
    case "entries":
      return {
        entries: content.entries.map(({ key, value }) => ({
          key: typeof key === "object" && key !== null ? stateJson(key) : scalarJson(key),
          value: stateJson(value),
        })),
      };
    case "bytes": {
      const bytes = Buffer.from(content.bytes).toString("hex");
      return content.note === null ? { bytes } : { bytes, note: content.note };
    }
  }
}

function scalarJson(value: Scalar): Json {
  return typeof value === "bigint" ? value.toString() : value;
}
