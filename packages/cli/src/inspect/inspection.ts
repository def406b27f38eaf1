/**
 * Inspection: everything that a recorded stream says, read as a destination would read it.
 *
 * Nothing is loaded and nothing is believed that does not add up: what no part accounts for is
 * listed with its place. Where a stream cannot be followed any further, what came before is kept
 * beside the failure.
 */
import { createReadStream } from "node:fs";
import { stat } from "node:fs/promises";
import {
  ChunkSource,
  ConfigError,
  type DecodedDevice,
  decodeDeviceSections,
  decodeMainStream,
  formatUuid,
  type MainEvent,
  MigrationError,
  parseVmDescription,
  placeError,
  type RamBlockListEntry,
  SystemError,
  type Unaccounted,
} from "@multifd/protocol";
import { PageCompressor } from "./compression-sample.js";
import { surveyRamFile } from "./ram-file-survey.js";
import { type BlockSurvey, RamSurvey } from "./ram-survey.js";

export type Inspection = {
  path: string;
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
 * @throws {SystemError} where a file cannot be read; {ConfigError} RAM_BLOCK_UNKNOWN, RAM_SIZE_MISMATCH.
 */
export async function inspectFile(path: string, ramFiles: ReadonlyMap<string, string>): Promise<Inspection> {
  const reader = new StreamInspector(path, ramFiles);
  try {
    return await reader.read();
  } catch (cause) {
    const { code, message } = cause as NodeJS.ErrnoException;
    if (cause instanceof MigrationError || code === undefined) throw cause;
    throw new SystemError(`SYSTEM_${code}`, `${path}: ${message}`, { cause });
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
        this.#noteDevices(event);
        break;
    }
  }

  #noteDevices({ at, bytes, description }: Extract<MainEvent, { kind: "devices" }>): void {
    const inspection = this.#inspection;
    const descriptionBytes = Buffer.byteLength(description) + DESCRIPTION_HEAD_BYTES;
    const sections = bytes.subarray(0, bytes.length - descriptionBytes);
    const { devices, unaccounted } = decodeDeviceSections(sections, parseVmDescription(description), at);
    const end = at + bytes.length;
    const behind = inspection.fileBytes - end;
    const reason = "they follow the end of the stream";
    inspection.devices = devices;
    inspection.deviceBytes = bytes.length;
    inspection.unaccounted =
      behind > 0 ? [...unaccounted, { section: null, at: end, lengthBytes: behind, reason }] : unaccounted;
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

/** Its section type and length. */
const DESCRIPTION_HEAD_BYTES = 5;
