/**
 * Compressed writer: a destination guest that is one compressed snapshot file.
 *
 * The channel threads append frames while the migration runs, each at a place of
 * its own. At the end the page maps follow as frames, then index and trailer; only a
 * file that has all of it gets its name. The page maps are all that is held in memory:
 * 1 MiB per GiB of guest RAM with 4 KiB pages. Format: protocol, compressed-snapshot.ts.
 */
import type { FileHandle } from "node:fs/promises";
import { crc32 } from "node:zlib";
import { createFrameLog, createPageMap, type FrameLog, FrameWriter, frameLogEnd } from "@multifd/dataplane";
import type { DestinationGuest, DeviceName, DevicePart, RamPlacement } from "@multifd/engine";
import type { RamBlock } from "@multifd/memory";
import { writeMemory } from "@multifd/native";
import {
  encodeFileHeader,
  encodeRamComplete,
  encodeRamSectionEnd,
  encodeRamStart,
  FRAME_UNIT_BYTES,
  framePagesMax,
  PAGE_MAP_PIECE_BYTES,
  SNAPSHOT_CRC_AT,
  snapshotFileHeader,
  snapshotIndexHeader,
  snapshotTrailer,
} from "@multifd/protocol";
import { punchDeadFrames } from "./dead-frames.js";
import { OutputFile, refuseDeviceState, writeAll } from "./output-file.js";

export class CompressedWriter implements DestinationGuest {
  readonly #output: OutputFile;
  readonly #level: number;
  #log: FrameLog | null = null;
  #blocks: readonly RamBlock[] = [];
  #pageMaps: SharedArrayBuffer[] = [];
  #devices: DevicePart | null = null;

  /** @param level  Of zstd, 1 to 20. */
  constructor(path: string, level: number) {
    this.#output = new OutputFile(path);
    this.#level = level;
  }

  /** @throws {SystemError} what the file system refuses. */
  async placeRam(blocks: readonly RamBlock[]): Promise<readonly RamPlacement[]> {
    const header = snapshotFileHeader.encode({ pageBytes: blocks[0]!.pageBytes, crc32: 0 });
    const file = await this.#output.create((created) => writeAll(created, withCrc(header), 0));
    const log = createFrameLog(file.fd, this.#level);
    this.#log = log;
    this.#blocks = blocks;
    this.#pageMaps = blocks.map((block) => createPageMap(block.pageCount));
    return blocks.map((block, index) => ({
      block,
      descriptor: file.fd,
      through: "file",
      startsZeroed: true,
      frames: { log, pageMap: this.#pageMaps[index]! },
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
      punchDeadFrames(this.#log!, this.#pageMaps);
      await this.#writeEnd(file, this.#writePageMaps());
    });
  }

  async abandon(): Promise<void> {
    await this.#output.abandon();
  }

  /** @returns the units of each block's page map. */
  #writePageMaps(): number[][] {
    const writer = new FrameWriter(this.#log!);
    try {
      return this.#pageMaps.map((pageMap, index) => writePageMap(writer, new Uint32Array(pageMap), index));
    } finally {
      writer.free();
    }
  }

  async #writeEnd(file: FileHandle, mapFrames: readonly number[][]): Promise<void> {
    const stream = this.#stream();
    const lists = Buffer.concat(mapFrames.map((units) => bigEndian([units.length, ...units])));
    const blocks = this.#blocks.length;
    const header = snapshotIndexHeader.encode({ blocks, streamBytes: stream.length, crc32: 0 });
    const index = withCrc(Buffer.concat([header, lists, stream]));
    const indexOffset = frameLogEnd(this.#log!) * FRAME_UNIT_BYTES;
    const trailer = snapshotTrailer.encode({ indexOffset, indexBytes: index.length, crc32: 0 });
    const end = Buffer.concat([index, withCrc(trailer)]);
    await writeAll(file, end, indexOffset);
  }

  /** The guest without its pages, as a main stream. */
  #stream(): Buffer {
    const { ramSectionId: id, configuration, sections } = this.#devices!;
    return Buffer.concat([
      encodeFileHeader(),
      configuration,
      encodeRamStart(id, this.#blocks),
      encodeRamSectionEnd(id),
      encodeRamComplete(id),
      encodeRamSectionEnd(id),
      sections,
    ]);
  }
}

function writePageMap(writer: FrameWriter, units: Uint32Array, block: number): number[] {
  const pieceEntries = PAGE_MAP_PIECE_BYTES / 4;
  const piecesMax = framePagesMax(PAGE_MAP_PIECE_BYTES);
  const pieceCount = Math.ceil(units.length / pieceEntries);
  const bytes = Buffer.alloc(piecesMax * PAGE_MAP_PIECE_BYTES);
  const frames: number[] = [];
  for (let first = 0; first < pieceCount; first += piecesMax) {
    const pieces = Uint32Array.from({ length: Math.min(piecesMax, pieceCount - first) }, (_, i) => first + i);
    const entries = units.subarray(first * pieceEntries, (first + pieces.length) * pieceEntries);
    bytes.fill(0);
    for (let i = 0; i < entries.length; i++) bytes.writeUInt32BE(entries[i]!, 4 * i);
    writeMemory(writer.window.mapping, 0, bytes);
    const unit = writer.writePageMap(block, pieces, pieces.length, PAGE_MAP_PIECE_BYTES);
    if (unit !== 0) frames.push(unit);
  }
  return frames;
}

function bigEndian(numbers: readonly number[]): Buffer {
  const out = Buffer.alloc(4 * numbers.length);
  for (const [i, number] of numbers.entries()) out.writeUInt32BE(number, 4 * i);
  return out;
}

/** Puts the CRC of everything else into its place. */
function withCrc<Bytes extends Uint8Array>(bytes: Bytes): Bytes {
  const crc = crc32(bytes.subarray(SNAPSHOT_CRC_AT + 4), crc32(bytes.subarray(0, SNAPSHOT_CRC_AT)));
  new DataView(bytes.buffer, bytes.byteOffset).setUint32(SNAPSHOT_CRC_AT, crc);
  return bytes;
}
