/**
 * Device file: everything of a guest but the RAM blocks that have files of their own.
 *
 * It is itself a migration stream, as QEMU writes one without multifd: header and
 * configuration as they came, the list of all RAM blocks, the pages of those blocks that
 * have no file (firmware, option ROMs), and the device sections byte for byte. So
 * a QEMU whose memory backend is the RAM file loads it as it stands, and
 * `inspect` reads it like any recorded stream.
 *
 * A block kept here has at least one record, zeros if need be; a block without
 * any lives in a file, and whoever sends the guest on must name that file.
 */
import { createReadStream } from "node:fs";
import { type FileHandle, open, rm } from "node:fs/promises";
import {
  type DevicePart,
  type KeptBlock,
  nameWholeFile,
  partialPath,
  type RamSource,
  type SavedGuest,
  syncFolder,
} from "@multifd/engine";
import { describeRamBlock, type RamBlock } from "@multifd/memory";
import { closeDescriptor, createMemfd, mapFile, readMemory, seekData, unmap, writeMemory } from "@multifd/native";
import {
  ChunkSource,
  ConfigError,
  decodeMainStream,
  encodeFileHeader,
  encodePage,
  encodeRamComplete,
  encodeRamPart,
  encodeRamSectionEnd,
  encodeRamStart,
  encodeZeroPage,
  MigrationError,
  placeError,
  SystemError,
} from "@multifd/protocol";

/** The source's guest stands still meanwhile: not a call for each page. bench/README.md, "Live guests". */
const PAGES_PER_WRITE = 256;

/** Writes the file under another name first: what bears `path` is whole. */
export async function writeDeviceFile(path: string, saved: SavedGuest): Promise<void> {
  const partial = partialPath(path);
  try {
    const file = await open(partial, "w", 0o600);
    try {
      await writeStream(file, saved);
      await file.sync();
    } finally {
      await file.close();
    }
    await nameWholeFile(path);
    await syncFolder(path);
  } catch (error) {
    await rm(partial, { force: true });
    const { code, message } = error as NodeJS.ErrnoException;
    throw code === undefined ? error : new SystemError(`SYSTEM_${code}`, `${path}: ${message}`, { cause: error });
  }
}

async function writeStream(file: FileHandle, { devices, blocks, kept }: SavedGuest): Promise<void> {
  const id = devices.ramSectionId;
  await file.writeFile(
    Buffer.concat([
      encodeFileHeader(),
      devices.configuration,
      encodeRamStart(id, blocks),
      encodeRamSectionEnd(id),
      encodeRamPart(id),
    ]),
  );
  for (const block of kept) await writeKeptBlock(file, block);
  await file.writeFile(
    Buffer.concat([encodeRamSectionEnd(id), encodeRamComplete(id), encodeRamSectionEnd(id), devices.sections]),
  );
}

async function writeKeptBlock(file: FileHandle, { block, descriptor }: KeptBlock): Promise<void> {
  const mapping = mapFile(descriptor, { lengthBytes: block.lengthBytes, writable: false });
  try {
    const { name, pageBytes, lengthBytes } = block;
    const zeros = Buffer.alloc(pageBytes);
    const pages = Buffer.alloc(Math.min(pageBytes * PAGES_PER_WRITE, lengthBytes));
    await file.writeFile(encodeZeroPage(name, 0));
    for (let from = 0; from < lengthBytes; from += pages.length) {
      const data = seekData(descriptor, from) ?? lengthBytes;
      if (data >= lengthBytes) break;
      from = data - (data % pageBytes);
      const piece = pages.subarray(0, Math.min(pages.length, lengthBytes - from));
      readMemory(mapping, from, piece);
      const records: Uint8Array[] = [];
      for (let at = 0; at < piece.length; at += pageBytes) {
        const page = piece.subarray(at, at + pageBytes);
        if (!page.equals(zeros)) records.push(encodePage(name, from + at, page));
      }
      await file.writeFile(Buffer.concat(records));
    }
  } finally {
    unmap(mapping);
  }
}

/** What a device file holds. */
export type DeviceFile = {
  readonly devices: DevicePart;
  readonly pageBytes: number;
  /** Blocks kept in the file, open; the caller's to close. */
  readonly kept: readonly RamSource[];
  /** All blocks in the order of the stream that they came in. */
  readonly blockNames: readonly string[];
};

/**
 * Reads a device file back.
 *
 * @param named  Length in bytes by name of the RAM blocks that have files of their own.
 * @throws {ConfigError} RAM_BLOCK_UNKNOWN, RAM_BLOCK_MISSING, RAM_SIZE_MISMATCH.
 * @throws {MigrationError} where the file is no whole stream.
 */
export async function readDeviceFile(path: string, named: ReadonlyMap<string, number>): Promise<DeviceFile> {
  const stream = createReadStream(path);
  const reader = new DeviceFileReader(stream, named);
  try {
    return await reader.read();
  } catch (error) {
    reader.close();
    const { code, message } = error as NodeJS.ErrnoException;
    if (error instanceof MigrationError || code === undefined) throw placeError(error, path);
    throw new SystemError(`SYSTEM_${code}`, message, { cause: error });
  } finally {
    stream.destroy(); // one left in the middle would keep its file open
  }
}

class DeviceFileReader {
  readonly #stream: AsyncIterable<Uint8Array>;
  readonly #named: ReadonlyMap<string, number>;
  readonly #blocks = new Map<string, RamBlock>();
  readonly #kept = new Map<string, RamSource>();
  #devices: DevicePart | null = null;
  #pageBytes = 0;

  constructor(stream: AsyncIterable<Uint8Array>, named: ReadonlyMap<string, number>) {
    this.#stream = stream;
    this.#named = named;
  }

  async read(): Promise<DeviceFile> {
    let machineType = "";
    let configuration: Uint8Array = new Uint8Array();
    let ramSectionId = 0;
    for await (const event of decodeMainStream(new ChunkSource(this.#stream))) {
      switch (event.kind) {
        case "configuration":
          machineType = event.machineType;
          configuration = event.bytes;
          this.#pageBytes = event.pageBytes;
          break;
        case "ram-blocks":
          ramSectionId = event.sectionId;
          for (const entry of event.blocks) this.#list(entry.name, entry.lengthBytes);
          break;
        case "zero-pages":
          this.#keep(event.block);
          break;
        case "page":
          this.#fill(event.block, event.page, event.bytes);
          break;
        case "devices":
          this.#devices = { machineType, ramSectionId, configuration, sections: event.bytes };
          break;
      }
    }
    this.#checkWhole();
    return {
      devices: this.#devices!,
      pageBytes: this.#pageBytes,
      kept: [...this.#kept.values()],
      blockNames: [...this.#blocks.keys()],
    };
  }

  close(): void {
    for (const { descriptor } of this.#kept.values()) closeDescriptor(descriptor);
  }

  #list(name: string, lengthBytes: number): void {
    const block = describeRamBlock(name, lengthBytes, this.#pageBytes);
    if (block === null)
      throw new ConfigError("RAM_SIZE", `RAM block "${name}" has ${lengthBytes} bytes, not a whole number of pages`);
    this.#blocks.set(name, block);
    const came = this.#named.get(name);
    if (came === undefined || came === lengthBytes) return;
    throw new ConfigError(
      "RAM_SIZE_MISMATCH",
      `RAM block "${name}" has ${lengthBytes} bytes, the file named for it has ${came}; name the file that was received with these devices`,
    );
  }

  #keep(name: string): RamSource {
    const known = this.#kept.get(name);
    if (known !== undefined) return known;
    const block = this.#blocks.get(name)!;
    const descriptor = createMemfd("multifd:kept", block.lengthBytes);
    const source = { block, descriptor, offsetBytes: 0 };
    this.#kept.set(name, source);
    return source;
  }

  #fill(name: string, page: number, bytes: Uint8Array): void {
    const { block, descriptor } = this.#keep(name);
    const mapping = mapFile(descriptor, { lengthBytes: block.lengthBytes, writable: true });
    writeMemory(mapping, page * block.pageBytes, bytes);
    unmap(mapping);
  }

  #checkWhole(): void {
    for (const name of this.#named.keys()) {
      if (this.#blocks.has(name)) continue;
      const known = [...this.#blocks.keys()].map((block) => `"${block}"`).join(", ");
      throw new ConfigError("RAM_BLOCK_UNKNOWN", `there is no RAM block "${name}"; there are ${known}`);
    }
    for (const name of this.#blocks.keys()) {
      if (this.#named.has(name) || this.#kept.has(name)) continue;
      throw new ConfigError(
        "RAM_BLOCK_MISSING",
        `RAM block "${name}" is in a file of its own; name it with --ram ${name}=PATH`,
      );
    }
  }
}
