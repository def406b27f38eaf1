/**
 * Inspection: everything that a recorded stream or a snapshot says.
 *
 * Nothing is loaded and nothing is believed that does not add up: what no part accounts for is
 * listed with its place.
 */
import type { SnapshotForm } from "@multifd/peer-qemu";
import {
  type DecodedDevice,
  decodeDeviceSections,
  type MigrationError,
  parseVmDescription,
  type Unaccounted,
} from "@multifd/protocol";
import type { BlockSurvey } from "./ram-survey.js";

export type Inspection = {
  path: string;
  form: "stream" | SnapshotForm;
  fileBytes: number;
  machineType: string;
  pageBytes: number;
  capabilities: readonly string[];
  uuid: string | null;
  commands: string[];
  flushes: number;
  blocks: readonly BlockSurvey[];
  devices: readonly DecodedDevice[];
  /** Device sections and description together. */
  deviceBytes: number;
  unaccounted: readonly Unaccounted[];
  /** What ended the reading; null when the whole file was read. */
  failure: MigrationError | null;
};

/** A stream's last part, as the main stream's decoder gives it. */
export type RawDevicePart = {
  /** Where it begins in the file. */
  readonly at: number;
  /** Device sections, end mark and description. */
  readonly bytes: Uint8Array;
  readonly description: string;
};

/** The description's section type and length. */
const DESCRIPTION_HEAD_BYTES = 5;

/**
 * Decodes the devices of a stream.
 *
 * @param fileBytes  What the file holds behind the description is not accounted for.
 */
export function decodeDevicePart(
  { at, bytes, description }: RawDevicePart,
  fileBytes: number,
): Pick<Inspection, "devices" | "deviceBytes" | "unaccounted"> {
  const descriptionBytes = Buffer.byteLength(description) + DESCRIPTION_HEAD_BYTES;
  const sections = bytes.subarray(0, bytes.length - descriptionBytes);
  const { devices, unaccounted } = decodeDeviceSections(sections, parseVmDescription(description, "parts"), at);
  const end = at + bytes.length;
  const behind = { section: null, at: end, lengthBytes: fileBytes - end, reason: "they follow the end of the stream" };
  return { devices, deviceBytes: bytes.length, unaccounted: end < fileBytes ? [...unaccounted, behind] : unaccounted };
}
