/**
 * Frame sender: turns a frame of a compressed snapshot into a packet.
 *
 * Where packets may be zstd, too, and every page of the frame counts, the frame's own
 * bytes are the payload: a destination takes one complete zstd frame per packet,
 * and nothing is decoded here. Otherwise the frame is decoded into its window, and
 * the pages that count go through the same mill as the others.
 */
import type { PacketBlock } from "@multifd/native";
import { FRAME_KIND, FRAME_UNIT_BYTES, ProtocolError } from "@multifd/protocol";
import { type Frame, type FrameDue, FrameReader } from "./frame-reader.js";
import type { SendBlock } from "./messages.js";
import type { SendCodecs } from "./send-codecs.js";

/** The guest whose frames are sent. */
export type FrameGuest = {
  readonly pageBytes: number;
  readonly blocks: readonly SendBlock[];
  readonly frames?: number;
};

export class FrameSender {
  readonly #guest: FrameGuest;
  readonly #packet: PacketBlock;
  readonly #codecs: Pick<SendCodecs, "zstd" | "prepare">;
  readonly #reader: FrameReader;
  readonly #pageMaps: readonly Int32Array[];
  readonly #numbers: Uint32Array;

  /**
   * @param packet  Lent: `prepare` leaves it ready to be sent.
   * @param codecs  The channel's own.
   */
  constructor(guest: FrameGuest, packet: PacketBlock, codecs: Pick<SendCodecs, "zstd" | "prepare">) {
    this.#guest = guest;
    this.#packet = packet;
    this.#codecs = codecs;
    this.#reader = new FrameReader(guest.frames!, packet);
    this.#pageMaps = guest.blocks.map(({ pageMap = new SharedArrayBuffer(0) }) => new Int32Array(pageMap));
    this.#numbers = new Uint32Array(packet.pages.length);
  }

  free(): void {
    this.#reader.free();
  }

  /**
   * Reads a frame into the packet block: normal pages, and zero pages behind them.
   *
   * @param live  How many of its pages count, by the page map.
   * @returns The pages' numbers, in the packet's order.
   * @throws {ProtocolError} SNAPSHOT_DAMAGED, SNAPSHOT_CUT.
   */
  prepare(index: number, unit: number, live: number): Uint32Array {
    const { pageBytes, blocks } = this.#guest;
    const { lengthBytes } = blocks[index]!;
    const reader = this.#reader;
    const due: FrameDue = { unit, kind: FRAME_KIND.pages, block: index, pageBytes, pageCount: lengthBytes / pageBytes };
    const frame = reader.read(due);
    const packet = this.#packet;
    packet.pageBytes = pageBytes;
    const kept = this.#keep(frame, index, unit);
    if (kept !== live)
      throw new ProtocolError(
        "SNAPSHOT_DAMAGED",
        `frame at byte ${unit * FRAME_UNIT_BYTES}: the index names ${live} pages in it, it has ${kept} of them; the file is damaged`,
      );
    if (this.#codecs.zstd !== 0 && live === frame.pages.length) {
      packet.codec = this.#codecs.zstd;
      packet.normalPages = live;
      packet.zeroPages = 0;
      packet.payloadBytes = frame.payloadBytes;
      return frame.pages;
    }
    const slots = packet.pages.slice(0, live);
    reader.decode(due, frame);
    packet.pages.set(slots);
    packet.normalPages = live;
    packet.zeroPages = 0;
    this.#codecs.prepare(true);
    for (let i = 0; i < live; i++) this.#numbers[i] = frame.pages[packet.pages[i]!]!;
    return this.#numbers;
  }

  /** Lists the places in the frame of the pages that count. @returns how many do. */
  #keep({ pages }: Frame, index: number, unit: number): number {
    const pageMap = this.#pageMaps[index]!;
    const slots = this.#packet.pages;
    let kept = 0;
    for (let i = 0; i < pages.length; i++) if (pageMap[pages[i]!]! >>> 0 === unit) slots[kept++] = i;
    return kept;
  }
}
