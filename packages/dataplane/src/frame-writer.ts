/**
 * Frame writer: compresses pages into a frame and appends it to the log.
 *
 * One per thread. Whoever has pages puts them into the window, page after page,
 * and says which they are, or prepares a packet of them with our compressor. Pages
 * of zeros are left out, whoever sent them.
 *
 * The page map is changed only when the frame is in the file, so a map never names
 * a frame that is not there. Format: protocol, compressed-snapshot.ts.
 */
import { writevSync } from "node:fs";
import { crc32 } from "node:zlib";
import { createCompressor, freeCodec, PacketBlock, preparePacket } from "@multifd/native";
import { FRAME_KIND, FRAME_UNIT_BYTES, frameHeader, SNAPSHOT_CRC_AT, SystemError } from "@multifd/protocol";
import { claimUnits, type FrameLog } from "./frame-log.js";
import { FrameWindow } from "./frame-window.js";

export class FrameWriter {
  readonly window = new FrameWindow();
  readonly #log: FrameLog;
  readonly #packet = new PacketBlock();
  readonly #codec: number;

  constructor(log: FrameLog) {
    this.#log = log;
    this.#codec = createCompressor("zstd", log.level);
  }

  free(): void {
    freeCodec(this.#codec);
    this.window.free();
  }

  /**
   * Appends the window's first `count` pages.
   *
   * @param pages    Their numbers in the block.
   * @param pageMap  The block's, in 32-bit words: every page of them gets its new place in it.
   */
  writePages(block: number, pages: Uint32Array, count: number, pageBytes: number, pageMap: Int32Array): void {
    const packet = this.#packet;
    const slots = packet.pages;
    this.#prepareWindow(count, pageBytes);
    const stored = packet.normalPages;
    const { unit } = this.#append(packet, FRAME_KIND.pages, block, pages);
    for (let i = 0; i < stored; i++) Atomics.store(pageMap, pages[slots[i]!]!, unit | 0);
    for (let i = stored; i < count; i++) Atomics.store(pageMap, pages[slots[i]!]!, 0);
  }

  /** The compressor that frames are prepared with. */
  get codec(): number {
    return this.#codec;
  }

  /**
   * Appends pages that somebody else has prepared with our `codec`: `packet` lists their numbers, zero pages behind.
   *
   * @returns Bytes that were appended.
   */
  appendPages(packet: PacketBlock, block: number, pageMap: Int32Array): number {
    const { pages, normalPages, zeroPages } = packet;
    const { unit, bytes } = this.#append(packet, FRAME_KIND.pages, block, null);
    for (let i = 0; i < normalPages; i++) Atomics.store(pageMap, pages[i]!, unit | 0);
    for (let i = normalPages; i < normalPages + zeroPages; i++) Atomics.store(pageMap, pages[i]!, 0);
    return bytes;
  }

  /**
   * Appends pieces of a block's page map.
   *
   * @returns The frame's unit, or 0 if all of it was zeros and nothing had to be written.
   */
  writePageMap(block: number, pieces: Uint32Array, count: number, pieceBytes: number): number {
    this.#prepareWindow(count, pieceBytes);
    return this.#append(this.#packet, FRAME_KIND.pageMap, block, pieces).unit;
  }

  /** The window's pages that are to be stored come first in `#packet.pages`, zero pages behind them. */
  #prepareWindow(count: number, pageBytes: number): void {
    const packet = this.#packet;
    this.window.readFrom(packet, count);
    packet.pageBytes = pageBytes;
    packet.codec = this.#codec;
    packet.normalPages = count;
    packet.zeroPages = 0;
    preparePacket(packet, true);
  }

  /**
   * Appends what was prepared.
   *
   * @param numbers  Of the pages that the packet lists by their place in it; null where it lists their numbers.
   */
  #append(
    packet: PacketBlock,
    kind: number,
    block: number,
    numbers: Uint32Array | null,
  ): { readonly unit: number; readonly bytes: number } {
    const { headerView: head, pages, payloadBytes, normalPages: stored } = packet;
    if (stored === 0) return { unit: 0, bytes: 0 };
    frameHeader.encodeInto(head, 0, { kind, block, pages: stored, payloadBytes, crc32: 0 });
    for (let i = 0; i < stored; i++) {
      const listed = pages[i]!;
      head.setUint32(frameHeader.size + 4 * i, numbers === null ? listed : numbers[listed]!);
    }
    const headBytes = frameHeader.size + 4 * stored;
    const payload = packet.payload.subarray(0, payloadBytes);
    let crc = crc32(packet.header.subarray(0, SNAPSHOT_CRC_AT));
    crc = crc32(packet.header.subarray(frameHeader.size, headBytes), crc);
    head.setUint32(SNAPSHOT_CRC_AT, crc32(payload, crc));
    const bytes = headBytes + payloadBytes;
    const unit = claimUnits(this.#log, bytes);
    appendAll(this.#log.file, [packet.header.subarray(0, headBytes), payload], unit * FRAME_UNIT_BYTES);
    return { unit, bytes };
  }
}

/** Writes all pieces, one after the other, from `at` on. @throws {SystemError} SYSTEM_ENOSPC and whatever else the file answers. */
function appendAll(file: number, pieces: Uint8Array[], at: number): void {
  let rest = pieces;
  for (let from = at; rest.length > 0; ) {
    let written: number;
    try {
      written = writevSync(file, rest, from);
    } catch (cause) {
      const { code, message } = cause as NodeJS.ErrnoException;
      throw new SystemError(`SYSTEM_${code ?? "ERROR"}`, `writing a frame at byte ${at}: ${message}`, { cause });
    }
    if (written === 0) throw new SystemError("SYSTEM_ENOSPC", `writing a frame at byte ${at}: the file takes no more`);
    from += written;
    rest = rest.flatMap((piece) => {
      const skip = Math.min(written, piece.length);
      written -= skip;
      return skip === piece.length ? [] : [piece.subarray(skip)];
    });
  }
}
