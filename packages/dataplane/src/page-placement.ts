/**
 * Page placement: the pages of a packet into their RAM block, and the account of what the block holds.
 *
 * A zero page is written only where something may have been written before:
 * fresh guest RAM reads as zero, and touching it would cost a host page. In a
 * snapshot file it is never written, only struck off the account.
 *
 * One per thread, over the thread's own packet block; the accounts are shared by all threads.
 */
import { clearPages, type PacketBlock } from "@multifd/native";
import type { ReceiveBlock } from "./messages.js";

export class PagePlacement {
  readonly #blocks: readonly ReceiveBlock[];
  readonly #packet: PacketBlock;
  readonly #fill: () => void;
  readonly #written: readonly Int32Array[];
  readonly #arrived: readonly (Int32Array | null)[];

  /**
   * @param packet  Lists a packet's pages, normal ones first, when `place` is called.
   * @param fill    Puts the bytes of the normal pages into the block that the packet names by then.
   */
  constructor(blocks: readonly ReceiveBlock[], packet: PacketBlock, fill: () => void) {
    this.#blocks = blocks;
    this.#packet = packet;
    this.#fill = fill;
    this.#written = blocks.map(({ written }) => new Int32Array(written));
    this.#arrived = blocks.map(({ arrived }) => (arrived === undefined ? null : new Int32Array(arrived)));
  }

  /** Places the listed pages of a block. The list is used up. */
  place(index: number, normalPages: number, zeroPages: number): void {
    const packet = this.#packet;
    const { pages } = packet;
    const block = this.#blocks[index]!;
    const written = this.#written[index]!;
    const arrived = this.#arrived[index]!;
    // Before the pages are in place, for their numbers do not outlive that; nobody looks before the round is over.
    if (arrived !== null) markAll(arrived, pages, normalPages + zeroPages);
    // Pages of a packet share their history: those of a later round are mostly in the file already.
    const first = pages[0]!;
    packet.placeInto(block.target, (Atomics.load(written, first >>> 5) & (1 << (first & 31))) === 0);
    if (normalPages > 0) {
      this.#fill();
      markAll(written, pages, normalPages);
    }
    if (block.zeroPages === "struck-off") {
      for (let i = normalPages; i < normalPages + zeroPages; i++)
        Atomics.and(written, pages[i]! >>> 5, ~(1 << (pages[i]! & 31)));
    } else if (zeroPages > 0) {
      this.#clear(normalPages, zeroPages, written);
    }
  }

  /** Clears what may hold something; the bit stays set, which costs a later zero one more write and nothing else. */
  #clear(from: number, zeroPages: number, written: Int32Array): void {
    const packet = this.#packet;
    const { pages } = packet;
    let clear = 0;
    for (let i = from; i < from + zeroPages; i++) {
      const page = pages[i]!;
      if ((Atomics.load(written, page >>> 5) & (1 << (page & 31))) !== 0) pages[clear++] = page;
    }
    if (clear === 0) return;
    packet.normalPages = 0;
    packet.zeroPages = clear;
    clearPages(packet);
  }
}

function markAll(bits: Int32Array, pages: Uint32Array, count: number): void {
  for (let i = 0; i < count; i++) Atomics.or(bits, pages[i]! >>> 5, 1 << (pages[i]! & 31));
}
