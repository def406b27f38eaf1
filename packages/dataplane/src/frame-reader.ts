/**
 * Frame reader: finds a frame in a compressed snapshot, checks it, and decodes it on demand.
 *
 * Nothing of a frame is believed before its checksum has been found right, and
 * the numbers in it meet our limits before they size a read. A frame is read into
 * the caller's packet block: `payload` then holds it compressed, as a packet takes it, and
 * `decode` puts its pages into the window.
 *
 * One per thread; owns the codec context and the window. Format: protocol, compressed-snapshot.ts.
 */
import { readSync } from "node:fs";
import { crc32 } from "node:zlib";
import { createDecompressor, freeCodec, type PacketBlock, placePages } from "@multifd/native";
import {
  checkNoDuplicates,
  FRAME_PAYLOAD_BYTES_MAX,
  FRAME_UNIT_BYTES,
  frameHeader,
  framePagesMax,
  ProtocolError,
  placeError,
  SNAPSHOT_CRC_AT,
  SystemError,
} from "@multifd/protocol";
import { FrameWindow } from "./frame-window.js";

/** What the index says about a frame. */
export type FrameDue = {
  readonly unit: number;
  /** One of FRAME_KIND. */
  readonly kind: number;
  readonly block: number;
  /** Of a page, or of a piece of the page map. */
  readonly pageBytes: number;
  /** Pages of the block, or pieces of its map. */
  readonly pageCount: number;
};

/** A frame whose checksum is right. `pages` is good until the next frame is read. */
export type Frame = { readonly pages: Uint32Array; readonly payloadBytes: number; readonly bytes: number };

export class FrameReader {
  readonly window = new FrameWindow();
  readonly #file: number;
  readonly #packet: PacketBlock;
  readonly #head: Buffer;
  readonly #headView: DataView;
  readonly #pages: Uint32Array;
  readonly #scratch: Uint32Array;
  #codec = createDecompressor("zstd");

  /** @param packet  Lent: its lists and buffers are overwritten. */
  constructor(file: number, packet: PacketBlock) {
    this.#file = file;
    this.#packet = packet;
    this.#pages = new Uint32Array(packet.pages.length);
    this.#scratch = new Uint32Array(this.#pages.length);
    this.#head = Buffer.alloc(frameHeader.size + 4 * this.#pages.length);
    this.#headView = new DataView(this.#head.buffer, this.#head.byteOffset, this.#head.length);
  }

  free(): void {
    freeCodec(this.#codec);
    this.window.free();
  }

  /**
   * Reads a frame and checks it; `payload` of the packet block holds it then.
   *
   * @throws {ProtocolError} SNAPSHOT_DAMAGED, SNAPSHOT_CUT, naming the frame.
   */
  read(due: FrameDue): Frame {
    try {
      return this.#read(due);
    } catch (error) {
      throw placeError(error, `frame at byte ${due.unit * FRAME_UNIT_BYTES}`);
    }
  }

  /**
   * Decodes the frame that was read into the window, page n of its list at page n.
   *
   * @throws {ProtocolError} SNAPSHOT_DAMAGED.
   */
  decode(due: FrameDue, frame: Frame): void {
    const packet = this.#packet;
    this.window.placeInto(packet, frame.pages.length);
    packet.pageBytes = due.pageBytes;
    packet.codec = this.#codec;
    packet.normalPages = frame.pages.length;
    packet.zeroPages = 0;
    packet.payloadBytes = frame.payloadBytes;
    try {
      placePages(packet);
    } catch (cause) {
      freeCodec(this.#codec); // a context that failed in the middle cannot be used again
      this.#codec = createDecompressor("zstd");
      if (!(cause instanceof ProtocolError)) throw cause;
      const place = `frame at byte ${due.unit * FRAME_UNIT_BYTES}`;
      throw new ProtocolError("SNAPSHOT_DAMAGED", `${place}: ${cause.message}; the file is damaged`, { cause });
    }
  }

  #read(due: FrameDue): Frame {
    const at = due.unit * FRAME_UNIT_BYTES;
    const listMax = frameHeader.size + 4 * framePagesMax(due.pageBytes);
    const got = this.#readSome(this.#head.subarray(0, listMax), at);
    if (got < frameHeader.size) throw cut();
    const header = frameHeader.decode(this.#head);
    const { kind, block, pages, payloadBytes } = header;
    if (kind !== due.kind || block !== due.block) {
      const came = `it is of kind ${kind} and block ${block}, the index names kind ${due.kind} and block ${due.block}`;
      throw damaged(came);
    }
    if (pages < 1 || pages > framePagesMax(due.pageBytes) || payloadBytes < 1 || payloadBytes > FRAME_PAYLOAD_BYTES_MAX)
      throw damaged(`it claims ${pages} pages in ${payloadBytes} bytes`);
    const headBytes = frameHeader.size + 4 * pages;
    if (got < headBytes) throw cut();
    const payload = this.#packet.payload.subarray(0, payloadBytes);
    if (this.#readSome(payload, at + headBytes) < payloadBytes) throw cut();
    let crc = crc32(this.#head.subarray(0, SNAPSHOT_CRC_AT));
    crc = crc32(this.#head.subarray(frameHeader.size, headBytes), crc);
    if (crc32(payload, crc) !== header.crc32) throw damaged("its checksum is wrong");
    for (let i = 0; i < pages; i++) {
      const page = this.#headView.getUint32(frameHeader.size + 4 * i);
      if (page >= due.pageCount) throw damaged(`it claims page ${page} of a block of ${due.pageCount}`);
      this.#pages[i] = page;
    }
    this.#checkNoDuplicates(pages);
    return { pages: this.#pages.subarray(0, pages), payloadBytes, bytes: headBytes + payloadBytes };
  }

  #checkNoDuplicates(pages: number): void {
    try {
      checkNoDuplicates(this.#pages, pages, this.#scratch);
    } catch (cause) {
      throw new ProtocolError("SNAPSHOT_DAMAGED", "it names a page twice; the file is damaged", { cause });
    }
  }

  /** Reads until `into` is full or the file ends. */
  #readSome(into: Uint8Array, at: number): number {
    let got = 0;
    try {
      while (got < into.length) {
        const more = readSync(this.#file, into, got, into.length - got, at + got);
        if (more === 0) break;
        got += more;
      }
    } catch (cause) {
      const { code, message } = cause as NodeJS.ErrnoException;
      throw new SystemError(`SYSTEM_${code ?? "ERROR"}`, message, { cause });
    }
    return got;
  }
}

function damaged(what: string): ProtocolError {
  return new ProtocolError("SNAPSHOT_DAMAGED", `${what}; the file is damaged`);
}

function cut(): ProtocolError {
  return new ProtocolError("SNAPSHOT_CUT", "the file ends inside it; the file has been cut short");
}
