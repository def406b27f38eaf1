/**
 * Compression sample: how well a RAM block's pages compress, from some of them.
 *
 * Pages are gathered into runs as long as a packet's and compressed as zstd level 1
 * packets are, so the ratio is what a migration would see. Of many runs every second, fourth,
 * eighth … is taken, so that the runs taken lie evenly over the block and cost is bounded.
 */
import {
  closeDescriptor,
  createCompressor,
  createMemfd,
  freeCodec,
  type Mapping,
  mapFile,
  PacketBlock,
  preparePacket,
  unmap,
  writeMemory,
} from "@multifd/native";
import { PACKET_GUEST_BYTES } from "@multifd/protocol";

export type Compressibility = { readonly sampledBytes: number; readonly compressedBytes: number };

const LEVEL = 1;

/** Runs kept of one block at most: 32 MiB of guest RAM. */
export const RUNS_MAX = 64;

/** Compresses pages handed to it; owns shared memory and a codec until it is closed. */
export class PageCompressor {
  readonly pagesMax: number;
  readonly #pageBytes: number;
  readonly #mapping: Mapping;
  readonly #packet = new PacketBlock();

  constructor(pageBytes: number) {
    this.#pageBytes = pageBytes;
    this.pagesMax = PACKET_GUEST_BYTES / pageBytes;
    const descriptor = createMemfd("multifd:sample", PACKET_GUEST_BYTES);
    try {
      this.#mapping = mapFile(descriptor, { lengthBytes: PACKET_GUEST_BYTES, writable: true });
    } finally {
      closeDescriptor(descriptor);
    }
    const { address, lengthBytes } = this.#mapping;
    this.#packet.readFromMapping(BigInt(address), BigInt(lengthBytes));
    this.#packet.pageBytes = pageBytes;
    this.#packet.codec = createCompressor("zstd", LEVEL);
  }

  /** Puts one page into the run, at `index`. */
  put(index: number, page: Uint8Array): void {
    writeMemory(this.#mapping, index * this.#pageBytes, page);
  }

  /** @returns Bytes that the run's first `pages` pages compress to. */
  compress(pages: number): number {
    for (let i = 0; i < pages; i++) this.#packet.pages[i] = i;
    this.#packet.normalPages = pages;
    this.#packet.zeroPages = 0;
    return preparePacket(this.#packet, false);
  }

  close(): void {
    freeCodec(this.#packet.codec);
    unmap(this.#mapping);
  }
}

/** The sample of one RAM block. Pages come in any order; only one block's run is gathered at a time. */
export class CompressionSample {
  readonly #compressor: PageCompressor;
  readonly #pageBytes: number;
  #runs: Compressibility[] = [];
  #stride = 1;
  #runsSeen = 0;
  #pages = 0;

  constructor(compressor: PageCompressor, pageBytes: number) {
    this.#compressor = compressor;
    this.#pageBytes = pageBytes;
  }

  /** Takes a page that is not all zero; reads it before it returns. */
  add(page: Uint8Array): void {
    if (this.#runsSeen % this.#stride === 0) this.#compressor.put(this.#pages, page);
    this.#pages += 1;
    if (this.#pages === this.#compressor.pagesMax) this.endRun();
  }

  /** Compresses what was gathered, before pages of another block come. */
  endRun(): void {
    if (this.#pages === 0) return;
    if (this.#runsSeen % this.#stride === 0) {
      const compressedBytes = this.#compressor.compress(this.#pages);
      this.#runs.push({ sampledBytes: this.#pages * this.#pageBytes, compressedBytes });
    }
    this.#runsSeen += 1;
    this.#pages = 0;
    if (this.#runs.length < RUNS_MAX) return;
    this.#runs = this.#runs.filter((_, i) => i % 2 === 0);
    this.#stride *= 2;
  }

  /** All runs together; null when no page was taken. */
  result(): Compressibility | null {
    this.endRun();
    if (this.#runs.length === 0) return null;
    const sum = (key: keyof Compressibility) => this.#runs.reduce((total, run) => total + run[key], 0);
    return { sampledBytes: sum("sampledBytes"), compressedBytes: sum("compressedBytes") };
  }
}
