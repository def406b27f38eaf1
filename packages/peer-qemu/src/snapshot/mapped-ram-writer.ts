/**
 * mapped-ram writer: a destination guest that is one snapshot file in QEMU's form.
 *
 * The channel threads write every page into its place; the threads' account of
 * pages is the bitmap. Sections and headers follow at the end, the bitmaps after
 * them, and only a file that is whole and on disk gets its name.
 *
 * The block list's first entry follows the configuration, which comes last from
 * the source; so the first bitmap keeps 64 KiB in front of it free.
 *
 * Owns the descriptor.
 */
import { type FileHandle, open, rm } from "node:fs/promises";
import {
  type DestinationGuest,
  type DeviceName,
  type DevicePart,
  nameWholeFile,
  partialPath,
  type RamPlacement,
  syncFolder,
} from "@multifd/engine";
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
import { refuseDeviceState, withSystemError, writeAll } from "./output-file.js";

/** Where blocks begin is told to the kernel library in pages, in 32 bits. */
const FILE_PAGES_MAX = 2 ** 32;

export class MappedRamWriter implements DestinationGuest {
  readonly #path: string;
  #file: FileHandle | null = null;
  #blocks: readonly RamBlock[] = [];
  #places: readonly MappedRamPlace[] = [];
  #end = 0;
  #present: readonly SharedArrayBuffer[] = [];
  #devices: DevicePart | null = null;
  #named = false;

  constructor(path: string) {
    this.#path = path;
  }

  /** @throws {ConfigError} SNAPSHOT_SIZE; {SystemError} what the file system refuses. */
  async placeRam(blocks: readonly RamBlock[]): Promise<readonly RamPlacement[]> {
    const { pageBytes } = blocks[0]!;
    const { places, end } = placeMappedRam(blocks, pageBytes);
    if (end / pageBytes >= FILE_PAGES_MAX) {
      const message = `a snapshot of ${end} bytes would have more than 2^32 pages of ${pageBytes} bytes`;
      throw new ConfigError("SNAPSHOT_SIZE", `${message}; write the compressed form`);
    }
    const partial = partialPath(this.#path);
    const file = await withSystemError(partial, () => open(partial, "w+", 0o600));
    this.#file = file;
    await withSystemError(partial, () => file.truncate(end));
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
    const file = this.#file!;
    await withSystemError(partialPath(this.#path), async () => {
      for (const { at, bytes } of [...this.#pieces(), ...this.#bitmaps()]) await writeAll(file, bytes, at);
      await file.sync();
      await nameWholeFile(this.#path);
      this.#named = true;
      await syncFolder(this.#path);
    });
    this.#file = null;
    await file.close();
  }

  async abandon(): Promise<void> {
    await this.#file?.close();
    this.#file = null;
    await rm(this.#named ? this.#path : partialPath(this.#path), { force: true });
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
