/**
 * RAM comparison: whether two RAM files hold the same bytes, and where they part.
 *
 * A migration's tests end here, with files of gigabytes, so the usual case (all the
 * same) is one pass of compares of 4 MiB, and only a difference is looked at by byte.
 */
import { closeSync, openSync, readSync } from "node:fs";

const PAGE_BYTES = 4096;
const COMPARE_BYTES = 4 * 2 ** 20;

/** Where two files differ first. `offset` counts from the start of the range, and so does `page`. */
export type Difference = { readonly page: number; readonly offset: number; readonly message: string };

/** A part of both files: `bytes` from `offsetA` in the one and `offsetB` in the other; all of A unless given. */
export type ComparedRange = { readonly offsetA?: number; readonly offsetB?: number; readonly bytes?: number };

/** Compares two files, or parts of them, and names the first page that differs; null if all are the same. */
export function firstDifference(pathA: string, pathB: string, range: ComparedRange = {}): Difference | null {
  const { offsetA = 0, offsetB = 0, bytes = Number.POSITIVE_INFINITY } = range;
  const [a, b] = [Buffer.allocUnsafe(COMPARE_BYTES), Buffer.allocUnsafe(COMPARE_BYTES)];
  const [fileA, fileB] = [openSync(pathA, "r"), openSync(pathB, "r")];
  try {
    for (let at = 0; at < bytes; ) {
      const want = Math.min(COMPARE_BYTES, bytes - at);
      const gotA = readFully(fileA, a.subarray(0, want), offsetA + at);
      const gotB = readFully(fileB, b.subarray(0, want), offsetB + at);
      if (!a.subarray(0, gotA).equals(b.subarray(0, gotB))) {
        return describeDifference(at, a.subarray(0, gotA), b.subarray(0, gotB), pathA, pathB);
      }
      if (gotA < want) {
        if (bytes === Number.POSITIVE_INFINITY) break;
        throw new Error(`${pathA} and ${pathB} both end ${at + gotA} bytes into a range of ${bytes}`);
      }
      at += want;
    }
    return null;
  } finally {
    closeSync(fileA);
    closeSync(fileB);
  }
}

/** @throws {Error} if two files, or parts of them, are not the same; the message names the first page that differs. */
export function assertSameBytes(pathA: string, pathB: string, range: ComparedRange = {}): void {
  const difference = firstDifference(pathA, pathB, range);
  if (difference) throw new Error(difference.message);
}

/** Pages that are not all zero, in a file of whole pages. */
export function countNonZeroPages(path: string): number {
  const chunk = Buffer.allocUnsafe(COMPARE_BYTES);
  const zeroPage = Buffer.alloc(PAGE_BYTES);
  const file = openSync(path, "r");
  try {
    let count = 0;
    for (let at = 0; ; at += chunk.length) {
      const got = readFully(file, chunk, at);
      for (let p = 0; p < got; p += PAGE_BYTES) {
        if (!chunk.subarray(p, p + PAGE_BYTES).equals(zeroPage)) count++;
      }
      if (got < chunk.length) return count;
    }
  } finally {
    closeSync(file);
  }
}

function readFully(file: number, into: Buffer, at: number): number {
  let got = 0;
  while (got < into.length) {
    const more = readSync(file, into, got, into.length - got, at + got);
    if (more === 0) break;
    got += more;
  }
  return got;
}

function describeDifference(at: number, a: Buffer, b: Buffer, pathA: string, pathB: string): Difference {
  const shared = Math.min(a.length, b.length);
  let i = 0;
  while (i < shared && a[i] === b[i]) i++;
  const offset = at + i;
  const page = Math.floor(offset / PAGE_BYTES);
  const show = (from: Buffer) => (i < from.length ? from.subarray(i, i + 8).toString("hex") : "the file's end");
  const place = `page ${page}, byte 0x${(offset % PAGE_BYTES).toString(16)} of it (range offset 0x${offset.toString(16)})`;
  return { page, offset, message: `first difference in ${place}: ${pathA} has ${show(a)}, ${pathB} has ${show(b)}` };
}
