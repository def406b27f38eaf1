/**
 * mapped-ram writer: a destination guest that is one snapshot file in QEMU's form.
 *
 * The channel threads write every page into its place; the threads' account of
 * pages is the bitmap. Sections and headers follow at the end, the bitmaps after
 * them, and only a file that is whole and on disk gets its name.
 *
 * The block list's first entry follows the configuration, which comes last from
 * the source; so the first bitmap keeps 64 KiB in front of it free.
 */
import type { DestinationGuest, DeviceName, DevicePart, RamPlacement } from "@multifd/engine";
import type { RamBlock } from "@multifd/memory";
import {
  addCapability,
  CAPABILITY_MAPPED_RAM,
  ConfigError,
  encodeFileHeader,
  encodeMappedRamStart,
  encodeRamComplete,
  encodeRamSectionEnd,
  type FilePiece,
  type MappedRamPlace,
  mappedBitmapBytes,
  placeMappedRam,
} from "@multifd/protocol";
import { OutputFile, refuseDeviceState, writeAll } from "./output-file.js";

/** Where blocks begin is told to the kernel library in pages, in 32 bits. */
const FILE_PAGES_MAX = 2 ** 32;

export class MappedRamWriter implements DestinationGuest {
  readonly #output: OutputFile;
  #blocks: readonly RamBlock[] = [];
  #places: readonly MappedRamPlace[] = [];
  #end = 0;
  #present: readonly SharedArrayBuffer[] = [];
  #devices: DevicePart | null = null;

  constructor(path: string) {
    this.#output = new OutputFile(path);
  }

  /** @throws {ConfigError} SNAPSHOT_SIZE; {SystemError} what the file system refuses. */
  async placeRam(blocks: readonly RamBlock[]): Promise<readonly RamPlacement[]> {
    const { pageBytes } = blocks[0]!;
    const { places, end } = placeMappedRam(blocks, pageBytes);
    if (end / pageBytes >= FILE_PAGES_MAX) {
      const message = `a snapshot of ${end} bytes would have more than 2^32 pages of ${pageBytes} bytes`;
      throw new ConfigError("SNAPSHOT_SIZE", `${message}; write the compressed form`);
    }
    const file = await this.#output.create((created) => created.truncate(end));
    this.#blocks = blocks;
    this.#places = places;
    this.#end = end;
    this.#present = blocks.map(({ pageCount }) => new SharedArrayBuffer(mappedBitmapBytes(pageCount)));
    return blocks.map((block, index) => ({
      block,
      descriptor: file.fd,
      through: "file",
      startsZeroed: true,
      fileOffsetBytes: places[index]!.pagesOffset,
      present: this.#present[index]!,
    }));
  }

  async loadDeviceState(device: DeviceName): Promise<void> {
    refuseDeviceState(device);
  }

  async loadDevices(devices: DevicePart): Promise<void> {
    this.#devices = devices;
  }

  async commit(): Promise<void> {
    await this.#output.complete(async (file) => {
      for (const { at, bytes } of [...this.#pieces(), ...this.#bitmaps()]) await writeAll(file, bytes, at);
    });
  }

  async abandon(): Promise<void> {
    await this.#output.abandon();
  }

  /** Everything but pages and bitmaps. */
  #pieces(): FilePiece[] {
    const { ramSectionId: id, configuration, sections } = this.#devices!;
    const head = Buffer.concat([encodeFileHeader(), addCapability(configuration, CAPABILITY_MAPPED_RAM)]);
    const { pageBytes } = this.#blocks[0]!;
    const tail = [encodeRamSectionEnd(id), encodeRamComplete(id), encodeRamSectionEnd(id), sections];
    return [
      { at: 0, bytes: head },
      ...encodeMappedRamStart(head.length, id, this.#blocks, this.#places, pageBytes),
      { at: this.#end, bytes: Buffer.concat(tail) },
    ];
  }

  #bitmaps(): FilePiece[] {
    return this.#present.map((bits, index) => ({ at: this.#places[index]!.bitmapOffset, bytes: new Uint8Array(bits) }));
  }
}
