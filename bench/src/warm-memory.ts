/**
 * Warm memory: pages that the next measured program takes without waiting for the host.
 *
 * A virtual machine gives memory that has lain free for a second or two back to its host, and
 * the first touch of such a page can cost ten times what filling it does. Whoever is measured
 * first after a large file was removed would win by that alone.
 */
import { closeSync, openSync, rmSync, writeSync } from "node:fs";
import { join } from "node:path";

const PIECE = new Uint8Array(2 ** 20).fill(1);

/** Touches `bytes` of free memory, and frees it again. @param dir  In memory. */
export function warmMemory(dir: string, bytes: number): void {
  const path = join(dir, "warm");
  const file = openSync(path, "w");
  try {
    for (let left = bytes; left > 0; left -= PIECE.length) writeSync(file, PIECE, 0, Math.min(left, PIECE.length));
  } finally {
    closeSync(file);
    rmSync(path);
  }
}
