/**
 * RAM file survey: what a file that holds one RAM block says about it.
 *
 * The file is read, not mapped: touching a hole of a mapped tmpfs file would make it a page
 * of memory. Holes are skipped and count as zero pages.
 */
import { type FileHandle, open } from "node:fs/promises";
import { seekData } from "@multifd/native";
import { ConfigError, type RamBlockListEntry, SystemError } from "@multifd/protocol";
import { CompressionSample, type PageCompressor } from "./compression-sample.js";
import { type BlockSurvey, isZero } from "./ram-survey.js";

const READ_BYTES = 2 ** 20;

/**
 * Reads a RAM block's file from end to end.
 *
 * @throws {ConfigError} RAM_SIZE_MISMATCH; {SystemError} where the file cannot be read.
 */
export async function surveyRamFile(
  path: string,
  { name, lengthBytes }: RamBlockListEntry,
  pageBytes: number,
  compressor: PageCompressor,
): Promise<BlockSurvey> {
  const sample = new CompressionSample(compressor, pageBytes);
  let file: FileHandle | null = null;
  try {
    file = await open(path, "r");
    const { size } = await file.stat();
    if (size !== lengthBytes)
      throw new ConfigError(
        "RAM_SIZE_MISMATCH",
        `RAM block "${name}" has ${lengthBytes} bytes, ${path} has ${size}; name the file that was received with these devices`,
      );
    const dataPages = await countDataPages(file, { offsetBytes: 0, lengthBytes }, pageBytes, sample);
    const zeroPages = lengthBytes / pageBytes - dataPages;
    return { name, lengthBytes, from: path, dataPages, zeroPages, absentPages: 0, sample: sample.result() };
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    if (error instanceof ConfigError || code === undefined) throw error;
    throw new SystemError(`SYSTEM_${code}`, `RAM block "${name}": ${message}`, { cause: error });
  } finally {
    await file?.close();
  }
}

/** A run of a file. */
export type FileRange = { readonly offsetBytes: number; readonly lengthBytes: number };

/**
 * Counts the pages of a run that are not all zero; what the file lacks counts as zeros.
 *
 * @param sample  Is given those pages.
 */
export async function countDataPages(
  file: FileHandle,
  { offsetBytes, lengthBytes }: FileRange,
  pageBytes: number,
  sample: CompressionSample,
): Promise<number> {
  const buffer = Buffer.alloc(READ_BYTES);
  let dataPages = 0;
  for (let at = 0; at < lengthBytes; at += READ_BYTES) {
    const data = seekData(file.fd, offsetBytes + at);
    if (data === null || data >= offsetBytes + lengthBytes) break;
    at = Math.max(at, data - offsetBytes - ((data - offsetBytes) % READ_BYTES));
    const due = Math.min(READ_BYTES, lengthBytes - at);
    buffer.fill(0, 0, due);
    for (let got = 0; got < due; ) {
      const { bytesRead } = await file.read(buffer, got, due - got, offsetBytes + at + got);
      if (bytesRead === 0) break; // cut meanwhile: what is not there reads as zeros
      got += bytesRead;
    }
    for (let page = 0; page < due; page += pageBytes) {
      const bytes = buffer.subarray(page, Math.min(page + pageBytes, due));
      if (isZero(bytes)) continue;
      dataPages += 1;
      sample.add(bytes);
    }
  }
  return dataPages;
}
