/**
 * RAM images: what a prepared guest holds.
 *
 * The mixed image is the one that speed is measured on: 35 % zero pages, 45 %
 * like a page cache, 20 % random, in runs of one page to a few hundred, as a real
 * guest's free, cached and encrypted or compressed memory lie. Page-cache pages
 * are bytes of real files (the node binary and the sources under node_modules) at
 * any offset, each page stamped with its own number, so none repeats exactly.
 *
 * An image is the same for the same seed, size and installed files. Zero runs are
 * holes, so the file takes no more memory than the guest would.
 */
import { createCipheriv, createHash } from "node:crypto";
import { closeSync, ftruncateSync, openSync, readdirSync, readFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const PAGE_BYTES = 4096;
const RUN_PAGES_MAX = 512;
const BINARY_CORPUS_BYTES = 64 * 2 ** 20;
const TEXT_CORPUS_BYTES = 24 * 2 ** 20;
const WRITE_BYTES = 4 * 2 ** 20;

/** Parts in a hundred of a mixed image. */
export const mixedShares = { zero: 35, cached: 45, random: 20 } as const;
type PageKind = keyof typeof mixedShares;

/**
 * Writes the mixed image; an older file of that name is overwritten.
 *
 * @param bytes  A whole number of 4096-byte pages.
 * @param seed   The same seed gives the same image.
 */
export function mixedImage(path: string, bytes: number, seed: number): void {
  const pages = toPages(bytes);
  const random = randomBytesFrom(seed);
  const cached = Math.round((pages * mixedShares.cached) / 100);
  const filled = Math.round((pages * mixedShares.random) / 100);
  const left: Record<PageKind, number> = { zero: pages - cached - filled, cached, random: filled };
  writeImage(path, bytes, (write) => {
    for (let page = 0; page < pages; ) {
      const choice = random(12);
      const kind = pickKind(left, choice.readUInt32LE(0) / 2 ** 32);
      const runPages = Math.min(left[kind], 1 + (choice.readUInt32LE(4) % (RUN_PAGES_MAX >> (choice[11]! % 10))));
      if (kind === "cached") write(page * PAGE_BYTES, cachedRun(page, runPages, choice.readUInt32LE(8)));
      if (kind === "random") write(page * PAGE_BYTES, random(runPages * PAGE_BYTES));
      left[kind] -= runPages;
      page += runPages;
    }
  });
}

/** Writes an image of random pages, which no method compresses. */
export function randomImage(path: string, bytes: number, seed: number): void {
  const random = randomBytesFrom(seed);
  writeImage(path, bytes, (write) => {
    for (let at = 0; at < bytes; at += WRITE_BYTES) write(at, random(Math.min(WRITE_BYTES, bytes - at)));
  });
}

/** Writes an image of text: sources under node_modules at any offset, each page stamped with its number. */
export function textImage(path: string, bytes: number, seed: number): void {
  const pages = toPages(bytes);
  const random = randomBytesFrom(seed);
  writeImage(path, bytes, (write) => {
    for (let page = 0; page < pages; ) {
      const choice = random(8);
      const runPages = Math.min(pages - page, 1 + (choice.readUInt32LE(0) % RUN_PAGES_MAX));
      write(page * PAGE_BYTES, corpusRun(loadCorpus().text, page, runPages, choice.readUInt32LE(4)));
      page += runPages;
    }
  });
}

/** Writes an image of zero pages: a hole, as a destination's RAM must be at the start. */
export function zeroImage(path: string, bytes: number): void {
  writeImage(path, bytes, () => {});
}

function toPages(bytes: number): number {
  if (bytes <= 0 || bytes % PAGE_BYTES !== 0) throw new RangeError(`${bytes} bytes are no whole number of pages`);
  return bytes / PAGE_BYTES;
}

/** By what is left of each kind, so that the shares come out exactly whatever the runs' lengths. */
function pickKind(left: Readonly<Record<PageKind, number>>, fraction: number): PageKind {
  const at = fraction * (left.zero + left.cached + left.random);
  if (at < left.zero) return "zero";
  return at < left.zero + left.cached ? "cached" : "random";
}

/** A run out of one file's bytes, three times in four the binary's; each page stamped with its number. */
function cachedRun(firstPage: number, pages: number, choice: number): Buffer {
  const { binary, text } = loadCorpus();
  const source = choice % 4 === 0 && text.length > RUN_PAGES_MAX * PAGE_BYTES ? text : binary;
  return corpusRun(source, firstPage, pages, choice);
}

function corpusRun(source: Buffer, firstPage: number, pages: number, choice: number): Buffer {
  const from = choice % (source.length - pages * PAGE_BYTES);
  const run = Buffer.from(source.subarray(from, from + pages * PAGE_BYTES));
  for (let p = 0; p < pages; p++) run.writeUInt32LE(firstPage + p + 1, p * PAGE_BYTES + ((firstPage + p) % 1023) * 4);
  return run;
}

let corpus: { readonly binary: Buffer; readonly text: Buffer } | null = null;

function loadCorpus() {
  corpus ??= {
    binary: readFileSync(process.execPath).subarray(0, BINARY_CORPUS_BYTES),
    text: readSources(fileURLToPath(new URL("../../../node_modules", import.meta.url))),
  };
  return corpus;
}

/** Sources below a folder, in the order of their names, until enough is there. */
function readSources(folder: string): Buffer {
  const files: Buffer[] = [];
  let bytes = 0;
  const visit = (path: string) => {
    const entries = readdirSync(path, { withFileTypes: true }).sort((a, b) => (a.name < b.name ? -1 : 1));
    for (const entry of entries) {
      if (bytes >= TEXT_CORPUS_BYTES) return;
      // Links lead to our own packages, which change from day to day.
      if (entry.isDirectory()) visit(join(path, entry.name));
      else if (entry.isFile() && /\.(m?js|d\.ts|json|md)$/.test(entry.name)) {
        files.push(readFileSync(join(path, entry.name)));
        bytes += files.at(-1)!.length;
      }
    }
  };
  visit(folder);
  return Buffer.concat(files);
}

/** A stream of random bytes that the seed determines: AES in counter mode, some GB/s. */
function randomBytesFrom(seed: number): (bytes: number) => Buffer {
  const key = createHash("sha256").update(`RAM image ${seed}`).digest();
  const cipher = createCipheriv("aes-256-ctr", key, Buffer.alloc(16));
  return (bytes) => cipher.update(Buffer.alloc(bytes));
}

function writeImage(path: string, bytes: number, fill: (write: (at: number, data: Buffer) => void) => void): void {
  toPages(bytes);
  const file = openSync(path, "w");
  try {
    ftruncateSync(file, bytes);
    fill((at, data) => {
      for (let done = 0; done < data.length; ) done += writeSync(file, data, done, data.length - done, at + done);
    });
  } finally {
    closeSync(file);
  }
}
