/**
 * RAM section decoder: block list, zero pages, pages and sync marks on the main channel.
 *
 * A section is a run of records, each a page offset with flags in its low
 * bits, until EOS. Sources before 9.0 put every zero page here, nine bytes
 * each, by the hundred thousand; so records that lie in the buffer are read
 * without awaiting, and zero pages of one block go out together. They go out
 * before anything else does, and before we wait, since a FLUSH orders them
 * against the packets of the next round.
 *
 * Owns the block list and the last block named, which records repeat across sections.
 *
 * Source: QEMU 10.2, migration/ram.c, ram_load_precopy().
 */

import type { SeekableSource } from "./byte-source.js";
import type { MainEvent, MainStreamLimits, RamBlockListEntry, RamPhase } from "./main-events.js";
import {
  RECORD_COMPRESSED_PAGE,
  RECORD_CONTINUE,
  RECORD_EOS,
  RECORD_FLUSH,
  RECORD_HOOK,
  RECORD_MEM_SIZE,
  RECORD_PAGE,
  RECORD_XBZRLE,
  RECORD_ZERO,
} from "./main-stream.js";
import { type MappedRamPlace, mappedBitmapBytes, mappedRamHeader } from "./mapped-ram.js";
import type { StreamReader } from "./stream-reader.js";

const WHAT = "RAM section";
const LIST = "RAM block list";
/** A record without a block and without contents, such as FLUSH and EOS. */
export const RAM_RECORD_BYTES = 8;

/** Zero pages in one event at most. */
const ZERO_PAGES_MAX = 65536;

/** Page indexes are 32 bits wide everywhere. */
const BLOCK_PAGES_MAX = 2 ** 32;

export class RamSectionDecoder {
  readonly #reader: StreamReader;
  readonly #pageBytes: number;
  readonly #hasAddresses: boolean;
  readonly #limits: MainStreamLimits;
  readonly #gaps: SeekableSource | null;
  readonly #blocks = new Map<string, RamBlockListEntry>();
  #lastBlock: RamBlockListEntry | null = null;
  /** Zero pages not emitted yet, all of `#lastBlock`. */
  readonly #zeroPages = new Uint32Array(ZERO_PAGES_MAX);
  #zeroPageCount = 0;

  /**
   * @param hasAddresses  Capability x-ignore-shared is on: the block list bears addresses.
   * @param gaps          The reader's source, if it is a mapped-ram snapshot: the block list has the blocks in it.
   */
  constructor(
    reader: StreamReader,
    pageBytes: number,
    hasAddresses: boolean,
    limits: MainStreamLimits,
    gaps: SeekableSource | null,
  ) {
    this.#reader = reader;
    this.#gaps = gaps;
    this.#pageBytes = pageBytes;
    this.#hasAddresses = hasAddresses;
    this.#limits = limits;
  }

  /**
   * Decodes the records of one section, EOS included, its footer not.
   *
   * @throws {ProtocolError} RAM_BLOCK_LIST, RAM_RECORD, RAM_BLOCK_UNKNOWN, RAM_OFFSET_OUTSIDE or RAM_ZERO_FILL.
   */
  async *decode(sectionId: number, phase: RamPhase): AsyncGenerator<MainEvent> {
    const reader = this.#reader;
    const source = reader.source;
    if (phase === "setup") yield { kind: "ram-blocks", sectionId, blocks: await this.#decodeBlockList() };
    for (;;) {
      if (source.available < RAM_RECORD_BYTES) {
        if (this.#zeroPageCount > 0) yield this.#flushZeroPages();
        await reader.need(RAM_RECORD_BYTES, WHAT);
      }
      const high = source.u32();
      const low = source.u32();
      const flags = low & (this.#pageBytes - 1);
      const offset = high * 2 ** 32 + (low - flags);
      const kind = flags & ~RECORD_CONTINUE;

      if (kind === RECORD_ZERO && phase !== "setup") {
        const named = flags & RECORD_CONTINUE ? this.#repeatedBlock() : await this.#namedBlock();
        if (this.#zeroPageCount > 0 && (named !== this.#lastBlock || this.#zeroPageCount === ZERO_PAGES_MAX))
          yield this.#flushZeroPages();
        this.#lastBlock = named;
        if (source.available < 1) await reader.need(1, WHAT);
        const fill = source.u8();
        if (fill !== 0) throw this.#nonZeroFill(fill);
        this.#zeroPages[this.#zeroPageCount++] = this.#pageIndex(named, offset);
        continue;
      }
      if (this.#zeroPageCount > 0) yield this.#flushZeroPages();

      if (kind === RECORD_PAGE && phase !== "setup") {
        const named = flags & RECORD_CONTINUE ? this.#repeatedBlock() : await this.#namedBlock();
        this.#lastBlock = named;
        const page = this.#pageIndex(named, offset);
        if (source.available < this.#pageBytes) await reader.need(this.#pageBytes, WHAT);
        yield { kind: "page", block: named.name, page, bytes: source.take(this.#pageBytes) };
      } else if (flags === RECORD_FLUSH && offset === 0) {
        yield { kind: "flush", phase };
      } else if (flags === RECORD_EOS && offset === 0) {
        yield { kind: "section-end", phase };
        return;
      } else {
        throw this.#refusedRecord(flags, offset, phase);
      }
    }
  }

  async #decodeBlockList(): Promise<readonly RamBlockListEntry[]> {
    const reader = this.#reader;
    const { blocksMax, ramBytesMax } = this.#limits;
    const refused = (message: string) => reader.refused("RAM_BLOCK_LIST", LIST, message);
    const first = await reader.u64(LIST);
    const flags = first % this.#pageBytes;
    const total = first - flags;
    if (flags !== RECORD_MEM_SIZE)
      throw refused(
        `a record with flags 0x${flags.toString(16)} came, the block list (0x4) was due; the stream is damaged`,
      );
    if (total > ramBytesMax)
      throw refused(
        `0x${total.toString(16)} bytes of RAM are announced, at most 0x${ramBytesMax.toString(16)} are taken`,
      );
    for (let listed = 0; listed < total; ) {
      if (this.#blocks.size === blocksMax)
        throw refused(`more than ${blocksMax} RAM blocks are listed; the stream is damaged or hostile`);
      const block = await this.#decodeBlockEntry();
      const { name, lengthBytes } = block;
      if (this.#blocks.has(name)) throw refused(`RAM block "${name}" is listed twice; the stream is damaged`);
      if (lengthBytes > total - listed)
        throw refused(
          `RAM block "${name}" has 0x${lengthBytes.toString(16)} bytes, of the announced 0x${total.toString(16)} only 0x${(total - listed).toString(16)} are left; switch postcopy-ram off on the source`,
        );
      if (lengthBytes % this.#pageBytes !== 0 || lengthBytes / this.#pageBytes > BLOCK_PAGES_MAX)
        throw refused(
          `RAM block "${name}" has 0x${lengthBytes.toString(16)} bytes, at most 2^32 whole pages of ${this.#pageBytes} bytes were due`,
        );
      const mapped = await this.#stepOverPages(block);
      this.#blocks.set(name, mapped === null ? block : { ...block, mapped });
      listed += lengthBytes;
    }
    return [...this.#blocks.values()];
  }

  async #decodeBlockEntry(): Promise<RamBlockListEntry> {
    const name = await this.#reader.name(LIST);
    if (name === "")
      throw this.#reader.refused("RAM_BLOCK_LIST", LIST, "a RAM block has no name; the stream is damaged");
    const lengthBytes = await this.#reader.u64(LIST);
    return this.#hasAddresses ? { name, lengthBytes, address: await this.#reader.u64(LIST) } : { name, lengthBytes };
  }

  /** @returns where a block lies whose pages are in the midst of the list; null in a stream, which has none there. */
  async #stepOverPages({ name, lengthBytes }: RamBlockListEntry): Promise<MappedRamPlace | null> {
    if (this.#gaps === null) return null;
    const reader = this.#reader;
    const what = `place of RAM block "${name}"`;
    await reader.need(mappedRamHeader.size, what);
    const { pageBytes, bitmapOffset, pagesOffset } = mappedRamHeader.decode(reader.source.take(mappedRamHeader.size));
    if (pageBytes !== this.#pageBytes) {
      const message = `pages of ${pageBytes} bytes came, the configuration says ${this.#pageBytes}; the file is damaged`;
      throw reader.refused("MAPPED_RAM_PLACE", what, message);
    }
    const bitmapEnd = bitmapOffset + mappedBitmapBytes(lengthBytes / pageBytes);
    const inOrder = bitmapOffset >= reader.source.position && pagesOffset >= bitmapEnd && pagesOffset % pageBytes === 0;
    if (!inOrder || pagesOffset + lengthBytes > Number.MAX_SAFE_INTEGER) {
      const message = `its bitmap is said to be at 0x${bitmapOffset.toString(16)} and its pages at 0x${pagesOffset.toString(16)}; bitmap, then pages on a page boundary, were due from here on; the file is damaged`;
      throw reader.refused("MAPPED_RAM_PLACE", what, message);
    }
    this.#gaps.seek(pagesOffset + lengthBytes);
    return { bitmapOffset, pagesOffset };
  }

  #repeatedBlock(): RamBlockListEntry {
    if (this.#lastBlock !== null) return this.#lastBlock;
    const message = "a record repeats the RAM block before it, but none was named yet; the stream is damaged";
    throw this.#reader.refused("RAM_RECORD", WHAT, message);
  }

  async #namedBlock(): Promise<RamBlockListEntry> {
    const name = await this.#reader.name(WHAT);
    const block = this.#blocks.get(name);
    if (block !== undefined) return block;
    const message = `RAM block ${JSON.stringify(name)} is not in the block list; the stream is damaged`;
    throw this.#reader.refused("RAM_BLOCK_UNKNOWN", WHAT, message);
  }

  #pageIndex(block: RamBlockListEntry, offset: number): number {
    if (offset < block.lengthBytes) return offset / this.#pageBytes;
    const message = `page offset 0x${offset.toString(16)} lies past the end of RAM block "${block.name}" (0x${block.lengthBytes.toString(16)} bytes); the stream is damaged`;
    throw this.#reader.refused("RAM_OFFSET_OUTSIDE", WHAT, message);
  }

  #flushZeroPages(): MainEvent {
    const pages = this.#zeroPages.slice(0, this.#zeroPageCount);
    this.#zeroPageCount = 0;
    return { kind: "zero-pages", block: this.#lastBlock!.name, pages };
  }

  #nonZeroFill(fill: number): Error {
    const message = `a page filled with 0x${fill.toString(16)} came, only pages of zeros are sent this way; the stream is damaged`;
    return this.#reader.refused("RAM_ZERO_FILL", WHAT, message);
  }

  #refusedRecord(flags: number, offset: number, phase: RamPhase): Error {
    const remedies: readonly (readonly [number, string])[] = [
      [RECORD_XBZRLE, "this is an xbzrle page; switch capability xbzrle off on the source"],
      [
        RECORD_COMPRESSED_PAGE,
        "this is a compressed page; switch capability compress off on the source, and use multifd-compression",
      ],
      [RECORD_HOOK, "this belongs to an RDMA migration; migrate over tcp or unix"],
      [RECORD_MEM_SIZE, "the block list comes once, in the set-up section; the stream is damaged"],
    ];
    const remedy =
      remedies.find(([flag]) => flags & flag)?.[1] ?? "no such record is known here; the stream is damaged";
    const message = `a record with flags 0x${flags.toString(16)} at offset 0x${offset.toString(16)} came (${phase}); ${remedy}`;
    return this.#reader.refused("RAM_RECORD", WHAT, message);
  }
}
