/**
 * Compressed snapshot: our own file format, in which any page can be found, checked and decoded alone.
 *
 *   file header │ frame │ frame │ … │ page map frames │ index │ trailer
 *
 * A frame holds up to 512 KiB of pages of one RAM block: its header, the numbers
 * of the pages, and one complete zstd frame with their bytes in that order. Frames
 * begin at multiples of 4096 bytes (units), so that 32 bits tell a place. They are
 * appended as pages come; a page that comes again is in two frames, and the newer counts.
 *
 * The page map says which: for every page of a block a 32-bit number, big-endian,
 * the unit of the frame that holds its newest bytes, or 0 for a page of zeros. It
 * is stored in frames of its own, cut into 4096-byte pieces as if it were a block.
 *
 * The index tells the units of the page map's frames, block by block, and ends with
 * the guest: a plain main stream (header, configuration, block list, device part)
 * as a device file holds it. The trailer, the file's last bytes, tells where the
 * index is. It is written last: a file without it has been cut, or never finished.
 *
 * Everything read is under a CRC-32 (the polynomial of zlib and gzip): a frame's
 * covers its header's other fields, the page numbers and the compressed bytes.
 * All numbers are big-endian.
 *
 * A frame none of whose pages counts any more is given back to the file system
 * when the file is finished, as a hole; what an outdated page shares with a newer one stays.
 */

import { layout } from "./layout.js";
import { PACKET_GUEST_BYTES } from "./ram-packet.js";
import { reserved, u32be, u64be } from "./wire-fields.js";

/** Frames begin at multiples of this. */
export const FRAME_UNIT_BYTES = 4096;
/** The page map is cut into pieces of this many bytes, a "page" of the map's frames. */
export const PAGE_MAP_PIECE_BYTES = 4096;
/** Guest RAM in one frame. */
export const FRAME_GUEST_BYTES: number = PACKET_GUEST_BYTES;

export const FRAME_KIND = { pages: 1, pageMap: 2 } as const;

const damaged = { code: "SNAPSHOT_DAMAGED", remedy: "the file is damaged" } as const;

/** "MFDS", "MFDF", "MFDI", "MFDT". */
const FILE_MAGIC = 0x4d464453;
const FRAME_MAGIC = 0x4d464446;
const INDEX_MAGIC = 0x4d464449;
const TRAILER_MAGIC = 0x4d464454;

/** A compressed snapshot's first bytes. */
export const COMPRESSED_SNAPSHOT_MAGIC_BYTES: Uint8Array = Uint8Array.of(0x4d, 0x46, 0x44, 0x53);

/** In every layout here the CRC-32 comes last and covers the fields before it. */
export const snapshotFileHeader = layout(
  "compressed snapshot, file header",
  {
    magic: u32be.equals(FILE_MAGIC, { code: "SNAPSHOT_MAGIC", remedy: "this is no compressed snapshot" }),
    version: u32be.equals(1, {
      code: "SNAPSHOT_VERSION",
      remedy: "it was written by a newer multifd, or is damaged",
    }),
    unitBytes: u32be.equals(FRAME_UNIT_BYTES, damaged),
    pageBytes: u32be,
    reserved: reserved(12),
    crc32: u32be,
  },
  { size: 32 },
);

/** Followed by `pages` 32-bit page numbers and `payloadBytes` of zstd; the CRC goes on over both. */
export const frameHeader = layout(
  "compressed snapshot, frame header",
  {
    magic: u32be.equals(FRAME_MAGIC, damaged),
    kind: u32be,
    block: u32be, // by its place in the block list
    pages: u32be,
    payloadBytes: u32be,
    reserved: reserved(8),
    crc32: u32be,
  },
  { size: 32 },
);

/**
 * Followed by, for each block, the number of its page map's frames and their units, all 32 bits, and by the stream;
 * the CRC goes on over both.
 */
export const snapshotIndexHeader = layout(
  "compressed snapshot, index",
  {
    magic: u32be.equals(INDEX_MAGIC, damaged),
    blocks: u32be,
    streamBytes: u32be,
    reserved: reserved(16),
    crc32: u32be,
  },
  { size: 32 },
);

export const snapshotTrailer = layout(
  "compressed snapshot, trailer",
  {
    magic: u32be.equals(TRAILER_MAGIC, {
      code: "SNAPSHOT_CUT",
      remedy: "the file has been cut short, or its writing never ended",
    }),
    indexBytes: u32be,
    indexOffset: u64be,
    reserved: reserved(12),
    crc32: u32be,
  },
  { size: 32 },
);

/** Where the CRC-32 stands in each of the four. */
export const SNAPSHOT_CRC_AT = 28;

/** Page numbers in one frame. */
export function framePagesMax(pageBytes: number): number {
  return FRAME_GUEST_BYTES / pageBytes;
}

/** The longest a zstd frame of a full frame may be; zstd stores what it cannot compress. */
export const FRAME_PAYLOAD_BYTES_MAX: number = FRAME_GUEST_BYTES + 4096;
