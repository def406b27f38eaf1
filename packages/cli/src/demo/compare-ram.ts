/**
 * Compares two guests' RAM, byte for byte, page by page.
 *
 * Reads both files in pieces of a few MiB and lets the event loop breathe in
 * between, so a signal is still heard.
 */
import { read } from "node:fs";
import { promisify } from "node:util";
import type { RamBlock } from "@multifd/memory";

const PIECE_BYTES = 4 * 2 ** 20;

const readInto = promisify(read);

/**
 * @param block  What both descriptors hold, from offset 0.
 * @returns The first page that differs, or null when none does.
 */
export async function findDifferentPage(block: RamBlock, left: number, right: number): Promise<number | null> {
  const buffers = [Buffer.alloc(PIECE_BYTES), Buffer.alloc(PIECE_BYTES)] as const;
  for (let at = 0; at < block.lengthBytes; at += PIECE_BYTES) {
    const bytes = Math.min(PIECE_BYTES, block.lengthBytes - at);
    await Promise.all([readFully(left, buffers[0], bytes, at), readFully(right, buffers[1], bytes, at)]);
    if (buffers[0].compare(buffers[1], 0, bytes, 0, bytes) === 0) continue;
    for (let page = 0; ; page += block.pageBytes) {
      const end = page + block.pageBytes;
      if (buffers[0].compare(buffers[1], page, end, page, end) !== 0) return (at + page) / block.pageBytes;
    }
  }
  return null;
}

async function readFully(descriptor: number, buffer: Buffer, bytes: number, position: number): Promise<void> {
  for (let done = 0; done < bytes; ) {
    const { bytesRead } = await readInto(descriptor, buffer, done, bytes - done, position + done);
    if (bytesRead === 0) throw new Error(`the RAM file ends at ${position + done}`);
    done += bytesRead;
  }
}
