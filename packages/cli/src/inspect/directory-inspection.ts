/**
 * Directory inspection: what a snapshot directory of Cloud Hypervisor holds.
 *
 * The directory's reader refuses one that is cut or damaged; here its RAM is read once, from end to end,
 * and both JSON files are kept as they were parsed: exact, in their order.
 */
import { openSnapshotDirectory, type SavedRange, type SnapshotDirectory } from "@multifd/peer-cloud-hypervisor";
import { type JsonValue, type MemoryRange, parseJsonText, type StateNode } from "@multifd/protocol";
import { type Compressibility, CompressionSample, PageCompressor } from "./compression-sample.js";
import { countDataPages } from "./ram-file-survey.js";

export const PAGE_BYTES = 4096;
/** The reader has bounded and read these texts before. */
const LIMITS = { charactersMax: 2 ** 29, depthMax: 256, valuesMax: 32_000_000 };

export type RangeSurvey = SavedRange & {
  /** Of the VM's memory zones, the one that it belongs to; empty where none is named. */
  readonly zone: string;
  readonly dataPages: number;
  readonly zeroPages: number;
  /** Of its pages that are not zero; null if there are none. */
  readonly sample: Compressibility | null;
};

export type DirectoryInspection = {
  readonly path: string;
  /** Of its three files together. */
  readonly fileBytes: number;
  readonly config: JsonValue;
  readonly ranges: readonly RangeSurvey[];
  readonly unsaved: readonly MemoryRange[];
  readonly tree: StateNode;
};

/** @throws {MigrationError} whatever the directory's reader refuses. */
export async function inspectDirectory(path: string): Promise<DirectoryInspection> {
  const snapshot = await openSnapshotDirectory(path);
  try {
    const { vmConfig, state, tree, unsaved } = snapshot;
    const ranges = await surveyRanges(snapshot);
    const ramBytes = ranges.reduce((sum, { lengthBytes }) => sum + lengthBytes, 0);
    const config = parseJsonText(Buffer.from(vmConfig).toString("utf8"), LIMITS);
    return { path, fileBytes: vmConfig.length + state.length + ramBytes, config, ranges, unsaved, tree };
  } finally {
    await snapshot.close();
  }
}

/** What a component saved, as a value; binary data stays bytes. */
export function contentOf(content: string | Uint8Array): JsonValue | Uint8Array {
  return typeof content === "string" ? parseJsonText(content, LIMITS) : content;
}

async function surveyRanges({ file, ranges, memory }: SnapshotDirectory): Promise<readonly RangeSurvey[]> {
  const surveys: RangeSurvey[] = [];
  if (file === null) return surveys;
  const compressor = new PageCompressor(PAGE_BYTES);
  try {
    for (const range of ranges) {
      const { gpa, lengthBytes, fileOffsetBytes } = range;
      const sample = new CompressionSample(compressor, PAGE_BYTES);
      const dataPages = await countDataPages(file, { offsetBytes: fileOffsetBytes, lengthBytes }, PAGE_BYTES, sample);
      const zeroPages = Math.ceil(lengthBytes / PAGE_BYTES) - dataPages;
      const mapping = memory.mappings.find((other) => gpa >= other.gpa && gpa < other.gpa + other.lengthBytes);
      surveys.push({ ...range, zone: mapping?.zone ?? "", dataPages, zeroPages, sample: sample.result() });
    }
    return surveys;
  } finally {
    compressor.close();
  }
}
