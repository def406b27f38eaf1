/**
 * Compressed reader: a snapshot in our own form, found from its end.
 *
 * The trailer tells where the index is, the index tells the guest and where the
 * page maps are, and those tell every page's frame. Each step is under a checksum
 * that is found right before the next, and every number meets the file's own length
 * or our limits before it sizes or places a read. Format: protocol, compressed-snapshot.ts.
 */
import type { FileHandle } from "node:fs/promises";
import { crc32 } from "node:zlib";
import { createPageMap, type FrameDue, FrameReader } from "@multifd/dataplane";
import type { RamBlock } from "@multifd/memory";
import { PacketBlock, readMemory } from "@multifd/native";
import {
  ChunkSource,
  DEFAULT_LIMITS,
  decodeMainStream,
  FRAME_KIND,
  FRAME_UNIT_BYTES,
  PAGE_MAP_PIECE_BYTES,
  ProtocolError,
  SNAPSHOT_CRC_AT,
  snapshotFileHeader,
  snapshotIndexHeader,
  snapshotTrailer,
} from "@multifd/protocol";
import type { Snapshot } from "./snapshot.js";
import { readSnapshotStream, SNAPSHOT_RAM_BYTES_MAX } from "./snapshot-stream.js";

const MAP_ENTRY_BYTES = 4;
const PIECE_ENTRIES = PAGE_MAP_PIECE_BYTES / MAP_ENTRY_BYTES;
/** Device part, and eight bytes per 512 MiB of RAM: nothing comes near. */
const INDEX_BYTES_MAX = DEFAULT_LIMITS.deviceBytesMax + 2 ** 26;

/** @throws {ProtocolError} SNAPSHOT_CUT, SNAPSHOT_DAMAGED, SNAPSHOT_VERSION, and what the stream's decoder refuses. */
export async function openCompressed(path: string, file: FileHandle, fileBytes: number): Promise<Snapshot> {
  await readFileHeader(file);
  const { indexOffset, indexBytes } = await readTrailer(file, fileBytes);
  const index = await readIndex(file, indexOffset, indexBytes);
  const stream = await readStream(index.stream, index.mapFrames.length);
  const { blocks, pageBytes } = stream;
  const packet = new PacketBlock();
  const reader = new FrameReader(file.fd, packet);
  let pageMaps: SharedArrayBuffer[];
  try {
    const endUnit = indexOffset / FRAME_UNIT_BYTES;
    pageMaps = blocks.map((block, at) => readPageMap(reader, block, at, index.mapFrames[at]!, endUnit));
  } catch (error) {
    reader.free();
    throw error;
  }
  const units = pageMaps.map((pageMap) => new Uint32Array(pageMap));
  const pages = new PageReader(reader, blocks);
  return {
    ...stream,
    form: "compressed",
    path,
    fileBytes,
    ram: blocks.map((block, at) => ({ block, descriptor: file.fd, offsetBytes: 0, pageMap: pageMaps[at]! })),
    hasPage: (block, page) => units[block]![page] !== 0,
    countPages: (block) => units[block]!.reduce((count, unit) => (unit === 0 ? count : count + 1), 0),
    readPage: (block, page, out) => {
      const unit = units[block]![page]!;
      if (unit === 0) out.fill(0);
      else pages.read(block, page, unit, pageBytes, out);
    },
    close: () => {
      reader.free();
      return file.close();
    },
  };
}

async function readFileHeader(file: FileHandle): Promise<void> {
  const bytes = await readExactly(file, 0, snapshotFileHeader.size, "the file header");
  const header = snapshotFileHeader.decode(bytes);
  checkCrc(bytes, header.crc32, "file header");
}

async function readTrailer(file: FileHandle, fileBytes: number): Promise<{ indexOffset: number; indexBytes: number }> {
  const at = fileBytes - snapshotTrailer.size;
  if (at < FRAME_UNIT_BYTES) throw cut("the file ends before its first frame");
  const bytes = await readExactly(file, at, snapshotTrailer.size, "the trailer");
  const { indexOffset, indexBytes, crc32 } = snapshotTrailer.decode(bytes);
  checkCrc(bytes, crc32, "trailer");
  const fits =
    indexOffset % FRAME_UNIT_BYTES === 0 && indexOffset >= FRAME_UNIT_BYTES && indexOffset + indexBytes === at;
  if (!fits || indexBytes > INDEX_BYTES_MAX) {
    const message = `trailer: an index of ${indexBytes} bytes is said to be at byte ${indexOffset} of ${fileBytes}`;
    throw new ProtocolError("SNAPSHOT_DAMAGED", `${message}; the file is damaged`);
  }
  return { indexOffset, indexBytes };
}

type Index = { readonly mapFrames: readonly Uint32Array[]; readonly stream: Uint8Array };

async function readIndex(file: FileHandle, at: number, bytes: number): Promise<Index> {
  const index = await readExactly(file, at, bytes, "the index");
  const header = snapshotIndexHeader.decode(index);
  checkCrc(index, header.crc32, "index");
  const { blocks, streamBytes } = header;
  const listEnd = bytes - streamBytes;
  const mapFrames: Uint32Array[] = [];
  let from = snapshotIndexHeader.size;
  for (; mapFrames.length < blocks && from + 4 <= listEnd; ) {
    const frames = index.readUInt32BE(from);
    from += 4;
    if (frames * 4 > listEnd - from) break;
    const list = index.subarray(from, from + frames * 4);
    mapFrames.push(Uint32Array.from({ length: frames }, (_, i) => list.readUInt32BE(4 * i)));
    from += frames * 4;
  }
  if (from !== listEnd || mapFrames.length !== blocks) {
    const message = `index: its lists of ${blocks} blocks do not fit its length; the file is damaged`;
    throw new ProtocolError("SNAPSHOT_DAMAGED", message);
  }
  return { mapFrames, stream: index.subarray(listEnd) };
}

async function readStream(bytes: Uint8Array, blockCount: number) {
  const once = (async function* () {
    yield bytes;
  })();
  const events = decodeMainStream(new ChunkSource(once), { ramBytesMax: SNAPSHOT_RAM_BYTES_MAX });
  const { places: _, ...stream } = await readSnapshotStream(events);
  if (stream.blocks.length === blockCount) return stream;
  throw new ProtocolError(
    "SNAPSHOT_DAMAGED",
    `index: it has lists for ${blockCount} blocks, its stream names ${stream.blocks.length}; the file is damaged`,
  );
}

/** @param endUnit  Frames lie before it. */
function readPageMap(
  reader: FrameReader,
  block: RamBlock,
  index: number,
  mapFrames: Uint32Array,
  endUnit: number,
): SharedArrayBuffer {
  const pageMap = createPageMap(block.pageCount);
  const units = new Uint32Array(pageMap);
  const pieceCount = Math.ceil(block.pageCount / PIECE_ENTRIES);
  if (mapFrames.length > pieceCount)
    throw damagedMap(block, `${mapFrames.length} frames hold its ${pieceCount} pieces`);
  const bytes = Buffer.alloc(reader.window.mapping.lengthBytes);
  for (const unit of mapFrames) {
    if (unit < 1 || unit >= endUnit) throw damagedMap(block, `unit ${unit} lies outside the frames`);
    const pageBytes = PAGE_MAP_PIECE_BYTES;
    const due: FrameDue = { unit, kind: FRAME_KIND.pageMap, block: index, pageBytes, pageCount: pieceCount };
    const frame = reader.read(due);
    reader.decode(due, frame);
    readMemory(reader.window.mapping, 0, bytes);
    for (const [slot, piece] of frame.pages.entries()) {
      const first = piece * PIECE_ENTRIES;
      const entries = Math.min(PIECE_ENTRIES, block.pageCount - first);
      for (let i = 0; i < entries; i++) {
        const entry = bytes.readUInt32BE(slot * PAGE_MAP_PIECE_BYTES + i * MAP_ENTRY_BYTES);
        if (entry >= endUnit) throw damagedMap(block, `page ${first + i} is said to be in unit ${entry}`);
        units[first + i] = entry;
      }
    }
  }
  return pageMap;
}

/** Reads single pages; the frame decoded last is kept, for pages are mostly asked for in order. */
class PageReader {
  readonly #reader: FrameReader;
  readonly #blocks: readonly RamBlock[];
  #unit = 0;
  #pages = new Uint32Array(0);

  constructor(reader: FrameReader, blocks: readonly RamBlock[]) {
    this.#reader = reader;
    this.#blocks = blocks;
  }

  read(block: number, page: number, unit: number, pageBytes: number, out: Uint8Array): void {
    if (unit !== this.#unit) {
      this.#unit = 0;
      const pageCount = this.#blocks[block]!.pageCount;
      const due: FrameDue = { unit, kind: FRAME_KIND.pages, block, pageBytes, pageCount };
      const frame = this.#reader.read(due);
      this.#reader.decode(due, frame);
      this.#pages = frame.pages.slice();
      this.#unit = unit;
    }
    const slot = this.#pages.indexOf(page);
    if (slot < 0) {
      const at = unit * FRAME_UNIT_BYTES;
      const message = `frame at byte ${at}: the index names page ${page} in it, it has none; the file is damaged`;
      throw new ProtocolError("SNAPSHOT_DAMAGED", message);
    }
    readMemory(this.#reader.window.mapping, slot * pageBytes, out);
  }
}

async function readExactly(file: FileHandle, at: number, bytes: number, what: string): Promise<Buffer> {
  const out = Buffer.alloc(bytes);
  for (let got = 0; got < bytes; ) {
    const { bytesRead } = await file.read(out, got, bytes - got, at + got);
    if (bytesRead === 0) throw cut(`the file ends at byte ${at + got}, inside ${what}`);
    got += bytesRead;
  }
  return out;
}

/** The CRC stands in front of what follows a header, and covers that too. */
function checkCrc(bytes: Uint8Array, due: number, what: string): void {
  const came = crc32(bytes.subarray(SNAPSHOT_CRC_AT + 4), crc32(bytes.subarray(0, SNAPSHOT_CRC_AT)));
  if (came === due) return;
  throw new ProtocolError("SNAPSHOT_DAMAGED", `${what}: its checksum is wrong; the file is damaged`);
}

function cut(where: string): ProtocolError {
  return new ProtocolError("SNAPSHOT_CUT", `${where}; the file has been cut short, or its writing never ended`);
}

function damagedMap({ name }: RamBlock, what: string): ProtocolError {
  return new ProtocolError("SNAPSHOT_DAMAGED", `page map of RAM block "${name}": ${what}; the file is damaged`);
}
