/**
 * RAM survey: what a stream's pages tell about each RAM block.
 *
 * A live source sends a page again when it changed, so the last word counts. A page that the
 * stream does not have may be on the multifd channels, in a file of its own, or (in a device
 * file) zero: it is counted as absent, never guessed.
 */
import type { RamBlockListEntry } from "@multifd/protocol";
import { type Compressibility, CompressionSample, type PageCompressor } from "./compression-sample.js";

export type BlockSurvey = {
  readonly name: string;
  readonly lengthBytes: number;
  /** Where the block's content was read: the inspected file, or the file named for it. */
  readonly from: string;
  readonly dataPages: number;
  readonly zeroPages: number;
  readonly absentPages: number;
  /** Of its pages that are not zero; null if there are none. */
  readonly sample: Compressibility | null;
};

const CHUNK_PAGES = 65536;
const ABSENT = 0;
const ZERO = 1;
const DATA = 2;

/** What is known of each page; room is made where pages come. */
class PageStates {
  readonly #chunks = new Map<number, Uint8Array>();
  readonly counts = [0, 0, 0];

  set(page: number, state: number): void {
    const index = Math.floor(page / CHUNK_PAGES);
    let chunk = this.#chunks.get(index);
    if (chunk === undefined) {
      chunk = new Uint8Array(CHUNK_PAGES);
      this.#chunks.set(index, chunk);
    }
    const before = chunk[page % CHUNK_PAGES]!;
    chunk[page % CHUNK_PAGES] = state;
    this.counts[before]! -= 1;
    this.counts[state]! += 1;
  }
}

type Surveyed = { readonly entry: RamBlockListEntry; readonly states: PageStates; readonly sample: CompressionSample };

/** Collects a stream's pages. The compressor is the caller's to close. */
export class RamSurvey {
  readonly #blocks = new Map<string, Surveyed>();
  readonly #pageBytes: number;
  #last: Surveyed | null = null;

  constructor(blocks: readonly RamBlockListEntry[], pageBytes: number, compressor: PageCompressor) {
    this.#pageBytes = pageBytes;
    for (const entry of blocks) {
      const sample = new CompressionSample(compressor, pageBytes);
      this.#blocks.set(entry.name, { entry, states: new PageStates(), sample });
    }
  }

  zeroPages(block: string, pages: Uint32Array): void {
    const { states } = this.#blocks.get(block)!;
    for (const page of pages) states.set(page, ZERO);
  }

  /** Takes a page's bytes; whole pages of zeros are sent as data by some sources. */
  page(block: string, page: number, bytes: Uint8Array): void {
    const surveyed = this.#blocks.get(block)!;
    if (isZero(bytes)) {
      surveyed.states.set(page, ZERO);
      return;
    }
    if (this.#last !== surveyed) this.#last?.sample.endRun();
    this.#last = surveyed;
    surveyed.states.set(page, DATA);
    surveyed.sample.add(bytes);
  }

  /** @param from  What the pages were read from. */
  result(from: string): BlockSurvey[] {
    this.#last?.sample.endRun();
    return [...this.#blocks.values()].map(({ entry, states, sample }) => ({
      name: entry.name,
      lengthBytes: entry.lengthBytes,
      from,
      dataPages: states.counts[DATA]!,
      zeroPages: states.counts[ZERO]!,
      absentPages: entry.lengthBytes / this.#pageBytes + states.counts[ABSENT]!,
      sample: sample.result(),
    }));
  }
}

const ZEROS = Buffer.alloc(65536);

/** @param bytes  A page, of 64 KiB at most. */
export function isZero(bytes: Uint8Array): boolean {
  return ZEROS.compare(bytes, 0, bytes.length, 0, bytes.length) === 0;
}
