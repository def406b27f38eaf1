/**
 * mapped-ram reader: a snapshot in QEMU's own form, QEMU's or ours.
 *
 * The block list tells where each block's bitmap and pages are; the bitmaps are
 * read here, the pages stay in the file until somebody wants them. The format has
 * no checksum: a file that is whole in form is believed.
 */
import { readSync } from "node:fs";
import type { FileHandle } from "node:fs/promises";
import { DirtyBitmap } from "@multifd/memory";
import { decodeMappedRamStream, ProtocolError } from "@multifd/protocol";
import { FileSource } from "./file-source.js";
import type { Snapshot } from "./snapshot.js";
import { readSnapshotStream, SNAPSHOT_RAM_BYTES_MAX } from "./snapshot-stream.js";

/** @throws {ProtocolError} SNAPSHOT_CUT, SNAPSHOT_NOT_MAPPED and what the decoder refuses. */
export async function openMappedRam(path: string, file: FileHandle, fileBytes: number): Promise<Snapshot> {
  const limits = { ramBytesMax: SNAPSHOT_RAM_BYTES_MAX };
  const { places, ...stream } = await readSnapshotStream(decodeMappedRamStream(new FileSource(file), limits));
  const { blocks, pageBytes } = stream;
  const present: DirtyBitmap[] = [];
  for (const [index, { name, pageCount }] of blocks.entries()) {
    const bitmap = new DirtyBitmap(pageCount);
    const { bytesRead } = await file.read(bitmap.bytes, 0, bitmap.bytes.length, places[index]!.bitmapOffset);
    if (bytesRead < bitmap.bytes.length)
      throw new ProtocolError("SNAPSHOT_CUT", `the file ends inside the bitmap of RAM block "${name}"`);
    bitmap.trim();
    present.push(bitmap);
  }
  const pageAt = (block: number, page: number) => places[block]!.pagesOffset + page * pageBytes;
  return {
    ...stream,
    form: "mapped-ram",
    path,
    fileBytes,
    ram: blocks.map((block, index) => ({
      block,
      descriptor: file.fd,
      offsetBytes: places[index]!.pagesOffset,
      present: present[index]!,
    })),
    hasPage: (block, page) => present[block]!.has(page),
    countPages: (block) => present[block]!.count(),
    readPage: (block, page, out) => {
      out.fill(0);
      if (present[block]!.has(page)) readSync(file.fd, out, 0, pageBytes, pageAt(block, page));
    },
    close: () => file.close(),
  };
}
