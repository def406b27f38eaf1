/**
 * Stream inspection: a recorded stream, read as a destination would read it.
 *
 * Where it cannot be followed any further, what came before is kept beside the failure.
 */
import { createReadStream } from "node:fs";
import { stat } from "node:fs/promises";
import {
  ChunkSource,
  ConfigError,
  decodeMainStream,
  formatUuid,
  type MainEvent,
  MigrationError,
  placeError,
  type RamBlockListEntry,
} from "@multifd/protocol";
import { PageCompressor } from "./compression-sample.js";
import { decodeDevicePart, type Inspection } from "./inspection.js";
import { surveyRamFile } from "./ram-file-survey.js";
import { type BlockSurvey, RamSurvey } from "./ram-survey.js";

/**
 * More RAM than any machine has today; a survey keeps a byte for each page that a stream names. Device state
 * beyond this is not worth reading as text.
 */
const LIMITS = { ramBytesMax: 2 ** 46, deviceBytesMax: 128 * 2 ** 20 };

/**
 * Reads a whole stream.
 *
 * @param ramFiles  File by name of the RAM blocks that have files of their own.
 * @returns What could be read; `failure` says why it is not all.
 * @throws {SystemError} where a RAM file cannot be read; {ConfigError} RAM_BLOCK_UNKNOWN, RAM_SIZE_MISMATCH.
 */
export async function inspectStream(path: string, ramFiles: ReadonlyMap<string, string>): Promise<Inspection> {
  const reader = new StreamInspector(path, ramFiles);
  try {
    return await reader.read();
  } finally {
    reader.close();
  }
}

class StreamInspector {
  readonly #path: string;
  readonly #ramFiles: ReadonlyMap<string, string>;
  readonly #inspection: Inspection;
  #compressor: PageCompressor | null = null;
  #listed: readonly RamBlockListEntry[] = [];
  #survey: RamSurvey | null = null;

  constructor(path: string, ramFiles: ReadonlyMap<string, string>) {
    this.#path = path;
    this.#ramFiles = ramFiles;
    this.#inspection = {
      path,
      form: "stream",
      fileBytes: 0,
      machineType: "",
      pageBytes: 0,
      capabilities: [],
      uuid: null,
      commands: [],
      flushes: 0,
      blocks: [],
      devices: [],
      deviceBytes: 0,
      unaccounted: [],
      failure: null,
    };
  }

  async read(): Promise<Inspection> {
    const inspection = this.#inspection;
    inspection.fileBytes = (await stat(this.#path)).size;
    const stream = createReadStream(this.#path, { highWaterMark: 2 ** 20 });
    try {
      for await (const event of decodeMainStream(new ChunkSource(stream), LIMITS, "described")) this.#note(event);
    } catch (error) {
      if (!(error instanceof MigrationError)) throw error;
      inspection.failure = placeError(error, this.#path) as MigrationError;
    } finally {
      stream.destroy(); // one left in the middle would keep its file open
    }
    if (this.#survey !== null) inspection.blocks = await this.#surveyBlocks(this.#survey);
    return inspection;
  }

  close(): void {
    this.#compressor?.close();
  }

  #note(event: MainEvent): void {
    const inspection = this.#inspection;
    switch (event.kind) {
      case "configuration":
        inspection.machineType = event.machineType;
        inspection.pageBytes = event.pageBytes;
        inspection.capabilities = event.capabilities;
        inspection.uuid = event.uuid && formatUuid(event.uuid);
        break;
      case "ram-blocks":
        this.#compressor = new PageCompressor(inspection.pageBytes);
        this.#listed = event.blocks;
        this.#survey = new RamSurvey(event.blocks, inspection.pageBytes, this.#compressor);
        break;
      case "zero-pages":
        this.#survey?.zeroPages(event.block, event.pages);
        break;
      case "page":
        this.#survey?.page(event.block, event.page, event.bytes);
        break;
      case "command":
        inspection.commands.push(event.name);
        break;
      case "flush":
        inspection.flushes++;
        break;
      case "section-end":
        break;
      case "devices":
        Object.assign(inspection, decodeDevicePart(event, inspection.fileBytes));
        break;
    }
  }

  async #surveyBlocks(survey: RamSurvey): Promise<readonly BlockSurvey[]> {
    for (const name of this.#ramFiles.keys()) {
      if (this.#listed.some((entry) => entry.name === name)) continue;
      const known = this.#listed.map((entry) => `"${entry.name}"`).join(", ");
      throw new ConfigError("RAM_BLOCK_UNKNOWN", `there is no RAM block "${name}"; there are ${known}`);
    }
    const blocks = survey.result(this.#path);
    for (const [i, entry] of this.#listed.entries()) {
      const file = this.#ramFiles.get(entry.name);
      if (file !== undefined)
        blocks[i] = await surveyRamFile(file, entry, this.#inspection.pageBytes, this.#compressor!);
    }
    return blocks;
  }
}
