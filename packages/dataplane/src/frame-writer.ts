/**
 * Frame writer: compresses pages into a frame and appends it to the log.
 *
 * One per thread. Whoever has pages puts them into the window, page after page,
 * and says which they are. Pages of zeros are left out, whoever sent them.
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
    const { unit, stored } = this.#write(FRAME_KIND.pages, block, pages, count, pageBytes);
    const slots = this.#packet.pages;
    for (let i = 0; i < stored; i++) Atomics.store(pageMap, pages[slots[i]!]!, unit | 0);
    for (let i = stored; i < count; i++) Atomics.store(pageMap, pages[slots[i]!]!, 0);
  }

  /**
   * Appends pieces of a block's page map.
   *
   * @returns The frame's unit, or 0 if all of it was zeros and nothing had to be written.
   */
  writePageMap(block: number, pieces: Uint32Array, count: number, pieceBytes: number): number {
    return this.#write(FRAME_KIND.pageMap, block, pieces, count, pieceBytes).unit;
  }

  /** The window's pages that are stored come first in `#packet.pages`, zero pages behind them. */
  #write(
    kind: number,
    block: number,
    pages: Uint32Array,
    count: number,
    pageBytes: number,
  ): { unit: number; stored: number } {
    const packet = this.#packet;
    this.window.readFrom(packet, count);
    packet.pageBytes = pageBytes;
    packet.codec = this.#codec;
    packet.normalPages = count;
    packet.zeroPages = 0;
    preparePacket(packet, true);
    const stored = packet.normalPages;
    if (stored === 0) return { unit: 0, stored };
    const { headerView: head } = packet;
    const payloadBytes = packet.payloadBytes;
    frameHeader.encodeInto(head, 0, { kind, block, pages: stored, payloadBytes, crc32: 0 });
    for (let i = 0; i < stored; i++) head.setUint32(frameHeader.size + 4 * i, pages[packet.pages[i]!]!);
    const headBytes = frameHeader.size + 4 * stored;
    const payload = packet.payload.subarray(0, payloadBytes);
    let crc = crc32(packet.header.subarray(0, SNAPSHOT_CRC_AT));
    crc = crc32(packet.header.subarray(frameHeader.size, headBytes), crc);
    head.setUint32(SNAPSHOT_CRC_AT, crc32(payload, crc));
    const unit = claimUnits(this.#log, headBytes + payloadBytes);
    appendAll(this.#log.file, [packet.header.subarray(0, headBytes), payload], unit * FRAME_UNIT_BYTES);
    return { unit, stored };
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
