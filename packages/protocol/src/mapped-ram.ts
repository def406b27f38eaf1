/**
 * mapped-ram: QEMU's snapshot file, in which every page has a place of its own.
 *
 * The file is a main stream whose block list has gaps. Behind each block's entry
 * stand this header, a bitmap with one bit per page, and, from the next multiple
 * of 1 MiB on, the block itself; the list goes on where the block ends:
 *
 *   QEVM, configuration, START │ entry, header, bitmap, … pages │ entry, header, … pages │ EOS, END, devices, description
 *
 * A set bit says that the page is there. A clear bit says that the page is all
 * zeros, whatever the file holds in its place: a page that turned zero while the
 * guest ran leaves its old bytes behind. All offsets are absolute.
 *
 * Bitmaps are arrays of the writing host's 64-bit words; this reads and writes those
 * of little-endian hosts, where bit i is byte i >> 3, bit i & 7.
 *
 * Source: QEMU 10.2, migration/ram.c, mapped_ram_setup_ramblock(), parse_ramblock_mapped_ram().
 */
import { ByteWriter } from "./byte-writer.js";
import { layout } from "./layout.js";
import { encodeRamListHead, type RamBlockEntry } from "./main-stream.js";
import { u32be, u64be } from "./wire-fields.js";

/** Where blocks begin in the file, so that they can be written past the page cache, and mapped with huge pages. */
export const MAPPED_RAM_ALIGNMENT = 2 ** 20;

export const mappedRamHeader = layout(
  "mapped-ram block header",
  {
    version: u32be.equals(1, {
      code: "MAPPED_RAM_VERSION",
      remedy: "the file is damaged, or written by a newer QEMU than this program knows",
    }),
    pageBytes: u64be,
    bitmapOffset: u64be, // absolute
    pagesOffset: u64be, // absolute
  },
  { size: 28 },
);

/** Where a block's bits and pages lie. */
export type MappedRamPlace = {
  readonly bitmapOffset: number;
  readonly pagesOffset: number;
};

/** Bytes of a block's bitmap: whole 64-bit words. */
export function mappedBitmapBytes(pageCount: number): number {
  return Math.ceil(pageCount / 64) * 8;
}

/** Room for what stands in front of the first bitmap; a configuration is much shorter. */
export const MAPPED_RAM_HEAD_BYTES = 2 ** 16;

/**
 * Lays a file's blocks out, before it is known what stands in front of them.
 *
 * @returns One place per block, and where the list has ended and its section goes on.
 */
export function placeMappedRam(
  blocks: readonly RamBlockEntry[],
  pageBytes: number,
): { readonly places: readonly MappedRamPlace[]; readonly end: number } {
  let end = 0;
  const places = blocks.map(({ name, lengthBytes }, index) => {
    const bitmapOffset =
      index === 0 ? MAPPED_RAM_HEAD_BYTES : end + encodeEntry(name, lengthBytes).length + mappedRamHeader.size;
    const bitmapEnd = bitmapOffset + mappedBitmapBytes(lengthBytes / pageBytes);
    const pagesOffset = Math.ceil(bitmapEnd / MAPPED_RAM_ALIGNMENT) * MAPPED_RAM_ALIGNMENT;
    end = pagesOffset + lengthBytes;
    return { bitmapOffset, pagesOffset };
  });
  return { places, end };
}

/** Bytes, and where in the file they go. */
export type FilePiece = { readonly at: number; readonly bytes: Uint8Array };

/**
 * Writes the START section's block list around the blocks.
 *
 * @param at  Where the section begins.
 * @throws {RangeError} if what stands before the first bitmap reaches into it.
 */
export function encodeMappedRamStart(
  at: number,
  sectionId: number,
  blocks: readonly RamBlockEntry[],
  places: readonly MappedRamPlace[],
  pageBytes: number,
): FilePiece[] {
  const head = encodeRamListHead(sectionId, blocks);
  const pieces: FilePiece[] = [{ at, bytes: head }];
  let end = at + head.length;
  for (const [index, { name, lengthBytes }] of blocks.entries()) {
    const place = places[index]!;
    const entry = new ByteWriter().bytes(encodeEntry(name, lengthBytes));
    entry.bytes(mappedRamHeader.encode({ pageBytes, ...place }));
    if (end + entry.length > place.bitmapOffset) throw new RangeError(`no room for the entry of RAM block "${name}"`);
    pieces.push({ at: end, bytes: entry.finish() });
    end = place.pagesOffset + lengthBytes;
  }
  return pieces;
}

function encodeEntry(name: string, lengthBytes: number): Uint8Array {
  return new ByteWriter().name(name).u64(lengthBytes).finish();
}
