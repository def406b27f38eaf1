/**
 * Snapshot inspection: what a snapshot of either form holds.
 *
 * The snapshot's reader refuses one that is cut or damaged; what it has read is told here. Of the
 * pages only those of the compression sample are read.
 */
import { openSnapshot, type Snapshot } from "@multifd/peer-qemu";
import { formatUuid } from "@multifd/protocol";
import { CompressionSample, PageCompressor, RUNS_MAX } from "./compression-sample.js";
import { decodeDevicePart, type Inspection } from "./inspection.js";
import type { BlockSurvey } from "./ram-survey.js";

/**
 * Reads a snapshot.
 *
 * @throws {MigrationError} whatever its reader refuses; SNAPSHOT_NOT_MAPPED or SNAPSHOT_MAGIC for a file that is none.
 */
export async function inspectSnapshot(path: string): Promise<Inspection> {
  const snapshot = await openSnapshot(path);
  const compressor = new PageCompressor(snapshot.pageBytes);
  try {
    const { form, fileBytes, machineType, pageBytes, capabilities, uuid, devices, description } = snapshot;
    const part = { at: snapshot.devicesAt, bytes: devices.sections, description };
    return {
      path,
      form,
      fileBytes,
      machineType,
      pageBytes,
      capabilities,
      uuid: uuid && formatUuid(uuid),
      commands: [],
      flushes: 0,
      blocks: snapshot.blocks.map((_, block) => surveyBlock(snapshot, block, compressor)),
      // The compressed form has its device part inside its index, so nothing can follow it there unnoticed.
      ...decodeDevicePart(part, form === "mapped-ram" ? fileBytes : 0),
      failure: null,
    };
  } finally {
    compressor.close();
    await snapshot.close();
  }
}

function surveyBlock(snapshot: Snapshot, block: number, compressor: PageCompressor): BlockSurvey {
  const { name, lengthBytes, pageCount } = snapshot.blocks[block]!;
  const { pageBytes, path } = snapshot;
  const dataPages = snapshot.countPages(block);
  const sample = new CompressionSample(compressor, pageBytes);
  const stride = Math.ceil(dataPages / compressor.pagesMax / RUNS_MAX);
  const bytes = Buffer.alloc(pageBytes);
  for (let page = 0, seen = 0; seen < dataPages && page < pageCount; page++) {
    if (!snapshot.hasPage(block, page)) continue;
    const run = Math.floor(seen / compressor.pagesMax);
    seen += 1;
    if (run % stride !== 0) continue;
    snapshot.readPage(block, page, bytes);
    sample.add(bytes);
  }
  const zeroPages = pageCount - dataPages;
  return { name, lengthBytes, from: path, dataPages, zeroPages, absentPages: 0, sample: sample.result() };
}
