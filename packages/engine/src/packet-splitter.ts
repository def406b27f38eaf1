/**
 * Packet splitter: cuts a RAM block's share of a round into packets.
 *
 * What a packet is made of depends on where the pages are. In guest RAM any page
 * may be zero, and the channel looks. In a snapshot file the account says which
 * pages are there; the others are sent as zeros without being looked at, for the
 * file may hold old bytes in their places, and a destination that writes into a
 * used file has to be told. In a compressed snapshot a packet is a frame.
 */
import { PACKET_KIND } from "@multifd/dataplane";
import { DirtyBitmap } from "@multifd/memory";
import type { RamSource } from "./guest.js";

/** Gives one packet after the other. */
export type PacketSplitter = {
  /** One of PACKET_KIND. */
  readonly kind: number;
  /** Writes what the next packet's slot holds from `at` on. @returns how many words; 0 when nothing is left. */
  next(pages: Uint32Array, at: number): number;
};

/** @param dirty  The pages to send; emptied on the way. */
export function splitPackets(ram: RamSource, dirty: DirtyBitmap, pagesMax: number): PacketSplitter[] {
  const { block, pageMap, present } = ram;
  if (pageMap !== undefined) {
    const words = new Uint32Array(pageMap);
    const zero = new DirtyBitmap(block.pageCount);
    for (let page = 0; page < block.pageCount; page++) if (dirty.has(page) && words[page] === 0) zero.set(page);
    const frames = splitFrames(words, dirty);
    dirty.clear();
    return [frames, splitPages(PACKET_KIND.zeroPages, zero, pagesMax)];
  }
  if (present === undefined) return [splitPages(PACKET_KIND.ram, dirty, pagesMax)];
  const zero = new DirtyBitmap(block.pageCount);
  for (const [at, word] of dirty.words.entries()) {
    zero.words[at] = word & ~present.words[at]!;
    dirty.words[at] = word & present.words[at]!;
  }
  return [splitPages(PACKET_KIND.ram, dirty, pagesMax), splitPages(PACKET_KIND.zeroPages, zero, pagesMax)];
}

function splitPages(kind: number, pages: DirtyBitmap, pagesMax: number): PacketSplitter {
  const taken = { pages: 0 };
  let word = 0;
  return {
    kind,
    next: (out, at) => {
      word = pages.takePages(word, out, at, pagesMax, taken);
      return taken.pages;
    },
  };
}

/** In the order of the file, so that it is read from one end to the other: a frame's unit, and how many of its pages count. */
function splitFrames(pageMap: Uint32Array, dirty: DirtyBitmap): PacketSplitter {
  const live = new Map<number, number>();
  for (const [page, unit] of pageMap.entries())
    if (unit !== 0 && dirty.has(page)) live.set(unit, (live.get(unit) ?? 0) + 1);
  const units = Uint32Array.from(live.keys()).sort();
  let frame = 0;
  return {
    kind: PACKET_KIND.frame,
    next: (out, at) => {
      const unit = units[frame++];
      if (unit === undefined) return 0;
      out[at] = unit;
      out[at + 1] = live.get(unit)!;
      return 2;
    },
  };
}
