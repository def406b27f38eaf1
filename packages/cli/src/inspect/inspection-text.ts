/**
 * Inspection text: what a stream holds, for people: its head, its RAM blocks, its devices.
 */
import type { DecodedDevice } from "@multifd/protocol";
import { formatBytes } from "../quantities.js";
import { deviceLines } from "./device-text.js";
import type { Inspection } from "./inspection.js";
import { zeroShare } from "./inspection-json.js";
import type { BlockSurvey } from "./ram-survey.js";
import { table } from "./table.js";

/**
 * Tells an inspection, piece by piece: together they may be longer than a text can be.
 *
 * @param devices   Those to tell of.
 * @param depthMax  Levels of their fields; 0 for a table of devices alone.
 */
export function* inspectionText(
  inspection: Inspection,
  devices: readonly DecodedDevice[],
  depthMax: number,
): Generator<string> {
  const { blocks, deviceBytes, failure } = inspection;
  const title = `${inspection.devices.length} device sections, ${formatBytes(deviceBytes)} with their description`;
  yield joinLines([...headLines(inspection), "", ...blockLines(blocks)]);
  if (failure !== null && devices.length === 0) return; // it ended before its devices
  yield joinLines(["", title]);
  if (depthMax === 0) yield joinLines(deviceTable(devices));
  else for (const device of devices) yield joinLines(["", ...deviceLines(device, depthMax)]);
  if (failure === null) yield joinLines(["", ...accountLines(inspection)]);
}

function joinLines(lines: readonly string[]): string {
  return lines.map((line) => `${line}\n`).join("");
}

const FORMS: Readonly<Record<Inspection["form"], string>> = {
  stream: "migration stream",
  "mapped-ram": "mapped-ram snapshot",
  compressed: "compressed snapshot",
};

function headLines({ form, machineType, pageBytes, capabilities, uuid, commands }: Inspection): string[] {
  return [
    `form           ${FORMS[form]}`,
    `machine type   ${machineType}`,
    `page size      ${pageBytes} bytes`,
    `capabilities   ${capabilities.join(", ") || "none"}`,
    `UUID           ${uuid ?? "not sent"}`,
    `commands       ${commands.join(", ") || "none"}`,
  ];
}

function blockLines(blocks: readonly BlockSurvey[]): string[] {
  const rows = blocks.map((block) => {
    const { name, lengthBytes, dataPages, zeroPages, absentPages, sample } = block;
    const share = zeroShare(block);
    return [
      name,
      formatBytes(lengthBytes),
      `${dataPages}`,
      `${zeroPages}`,
      `${absentPages}`,
      share === null ? "-" : `${(share * 100).toFixed(1)} %`,
      sample === null ? "-" : `${(sample.sampledBytes / sample.compressedBytes).toFixed(2)} : 1`,
    ];
  });
  const heads = ["name", "size", "data pages", "zero pages", "not here", "zero", "zstd 1"];
  return [`${blocks.length} RAM blocks`, ...table(heads, rows)];
}

function deviceTable(devices: readonly DecodedDevice[]): string[] {
  return table(
    ["name", "instance", "version", "bytes"],
    devices.map(({ name, instanceId, version, lengthBytes }) => [
      name,
      `${instanceId}`,
      `${version}`,
      `${lengthBytes}`,
    ]),
  );
}

function accountLines({ form, fileBytes, unaccounted }: Inspection): string[] {
  // Frames that no page refers to any more are a compressed snapshot's own affair.
  if (unaccounted.length === 0 && form === "compressed") return ["every byte of its device part is accounted for"];
  if (unaccounted.length === 0) return [`every one of ${fileBytes} bytes is accounted for`];
  return [
    "not accounted for:",
    ...unaccounted.map(
      ({ section, at, lengthBytes, reason }) =>
        `  ${lengthBytes} bytes at 0x${at.toString(16)}${section === null ? "" : `, in ${section}`}: ${reason}`,
    ),
  ];
}
