/**
 * Placed RAM: the destination's RAM blocks, as the threads and the main channel write them.
 *
 * Keeps one bit per page that may hold something other than zeros. A fresh block
 * starts with none, so first zero pages cost nothing; a block that held data
 * starts with all, so every zero page is really written. A snapshot's guest lends
 * bits of its own, which say in the end what the file holds, or takes frames.
 *
 * Owns the mappings and the bits, not the descriptors. The methods here run on
 * the coordinator, for pages that came on the main channel.
 */
import { fstatSync } from "node:fs";
import { type FrameLog, FrameWriter, type ReceiveBlock } from "@multifd/dataplane";
import {
  clearPages,
  closeDescriptor,
  type Mapping,
  mapFile,
  PacketBlock,
  placePages,
  registerFresh,
  reserveFile,
  unmap,
  writeMemory,
} from "@multifd/native";
import { packetPagesMax } from "@multifd/protocol";
import type { RamPlacement } from "./guest.js";

const FRESH_PAGE_BYTES = 4096;

export class PlacedRam {
  readonly lengthBytes: number;
  readonly pagesOnMain = { normalPages: 0, zeroPages: 0 };
  readonly #blocks: readonly ReceiveBlock[];
  readonly #mappings: Mapping[] = [];
  readonly #fresh: number[] = [];
  readonly #packet = new PacketBlock();
  readonly #pageBytes: number;
  /** Where blocks that go into a compressed snapshot go; null when none does. */
  frames: FrameLog | null = null;
  /** Made for the first page that comes with bytes. */
  #writer: FrameWriter | null = null;

  constructor(placements: readonly RamPlacement[], pageBytes: number) {
    this.#pageBytes = pageBytes;
    this.#packet.pageBytes = pageBytes;
    this.#blocks = placements.map((placement) => {
      const { arrived } = placement;
      return { ...this.#open(placement), ...(arrived && { arrived }) };
    });
    const taken = placements.filter(({ through }) => through !== "nowhere");
    this.lengthBytes = taken.reduce((sum, { block }) => sum + block.lengthBytes, 0);
  }

  #open(placement: RamPlacement): ReceiveBlock {
    const { block, descriptor, through, startsZeroed, fileOffsetBytes = 0, present, frames } = placement;
    const { name, lengthBytes } = block;
    if (through === "nowhere") return takesNoPage(name);
    const intoFile = {
      lengthBytes: BigInt(lengthBytes),
      file: descriptor,
      fileOffsetBytes: BigInt(fileOffsetBytes),
      address: 0n,
      fresh: -1,
    };
    if (frames !== undefined) {
      this.frames = frames.log;
      const { pageMap } = frames;
      return { name, lengthBytes, target: { ...intoFile, file: -1 }, written: new SharedArrayBuffer(0), pageMap };
    }
    const written = present ?? new SharedArrayBuffer(Math.ceil(block.pageCount / 32) * 4);
    if (!startsZeroed) new Uint8Array(written).fill(0xff);
    if (through === "mapping") {
      // Without storage of its own a mapping faults, and the process dies, where write(2) would have said ENOSPC.
      reserveFile(descriptor, lengthBytes);
      const address = BigInt(this.#map(descriptor, lengthBytes, 0).address);
      return { name, lengthBytes, written, target: { ...intoFile, file: -1, address } };
    }
    const fresh = startsZeroed ? this.#openFresh(descriptor, lengthBytes, fileOffsetBytes) : null;
    const zeroPages = present === undefined ? "cleared" : "struck-off";
    return { name, lengthBytes, written, target: { ...intoFile, ...fresh }, zeroPages };
  }

  /** The way for pages that the file lacks, where the file and the system have it. */
  #openFresh(
    descriptor: number,
    lengthBytes: number,
    offsetBytes: number,
  ): { readonly address: bigint; readonly fresh: number } | null {
    // A file that takes huge pages, as its preferred size tells, gets them from write(2) only.
    if (lengthBytes === 0 || fstatSync(descriptor).blksize > FRESH_PAGE_BYTES) return null;
    const mapping = this.#map(descriptor, lengthBytes, offsetBytes);
    const fresh = registerFresh(mapping);
    if (fresh === null) return null;
    this.#fresh.push(fresh);
    return { address: BigInt(mapping.address), fresh };
  }

  #map(descriptor: number, lengthBytes: number, offsetBytes: number): Mapping {
    const mapping = mapFile(descriptor, { lengthBytes, offsetBytes, writable: true });
    this.#mappings.push(mapping);
    return mapping;
  }

  /** The blocks as the receiving threads take them. */
  receiveBlocks(): readonly ReceiveBlock[] {
    return this.#blocks;
  }

  /**
   * Writes pages that came on the main channel.
   *
   * @param pages  Page indexes, checked against the block.
   * @param bytes  Their contents one after the other; null for zeros.
   */
  applyPages(index: number, pages: Uint32Array, bytes: Uint8Array | null): void {
    const block = this.#blocks[index]!;
    if (block.pageMap !== undefined) {
      this.#append(index, new Int32Array(block.pageMap), pages, bytes);
      return;
    }
    const written = new Int32Array(block.written);
    if (block.arrived !== undefined) {
      const arrived = new Int32Array(block.arrived);
      for (const page of pages) Atomics.or(arrived, page >>> 5, 1 << (page & 31));
    }
    if (bytes === null && block.zeroPages === "struck-off") {
      for (const page of pages) Atomics.and(written, page >>> 5, ~(1 << (page & 31)));
      this.pagesOnMain.zeroPages += pages.length;
      return;
    }
    this.#packet.placeInto(block.target, false);
    const most = packetPagesMax(this.#pageBytes);
    for (let at = 0; at < pages.length; at += most) {
      const some = pages.subarray(at, at + most);
      if (bytes === null) this.#clear(some, written);
      else this.#place(some, bytes.subarray(at * this.#pageBytes, (at + some.length) * this.#pageBytes), written);
    }
  }

  #clear(pages: Uint32Array, written: Int32Array): void {
    let clear = 0;
    for (const page of pages) {
      if ((Atomics.load(written, page >>> 5) & (1 << (page & 31))) !== 0) this.#packet.pages[clear++] = page;
    }
    this.pagesOnMain.zeroPages += pages.length;
    if (clear === 0) return;
    this.#packet.normalPages = 0;
    this.#packet.zeroPages = clear;
    clearPages(this.#packet);
  }

  #place(pages: Uint32Array, bytes: Uint8Array, written: Int32Array): void {
    const packet = this.#packet;
    packet.pages.set(pages);
    packet.payload.set(bytes);
    packet.normalPages = pages.length;
    packet.zeroPages = 0;
    packet.payloadBytes = bytes.length;
    placePages(packet);
    for (const page of pages) Atomics.or(written, page >>> 5, 1 << (page & 31));
    this.pagesOnMain.normalPages += pages.length;
  }

  /** Pages of zeros leave the account, others are appended one frame at a time. */
  #append(index: number, pageMap: Int32Array, pages: Uint32Array, bytes: Uint8Array | null): void {
    if (bytes === null) {
      for (const page of pages) Atomics.store(pageMap, page, 0);
      this.pagesOnMain.zeroPages += pages.length;
      return;
    }
    this.#writer ??= new FrameWriter(this.frames!);
    const most = packetPagesMax(this.#pageBytes);
    for (let at = 0; at < pages.length; at += most) {
      const some = pages.subarray(at, at + most);
      writeMemory(
        this.#writer.window.mapping,
        0,
        bytes.subarray(at * this.#pageBytes, (at + some.length) * this.#pageBytes),
      );
      this.#writer.writePages(index, some, some.length, this.#pageBytes, pageMap);
    }
    this.pagesOnMain.normalPages += pages.length;
  }

  close(): void {
    this.#writer?.free();
    this.#writer = null;
    for (const descriptor of this.#fresh.splice(0)) closeDescriptor(descriptor);
    for (const mapping of this.#mappings.splice(0)) unmap(mapping);
  }
}

/** A block of no length: no page lies in it, so none is placed whatever the stream says. */
function takesNoPage(name: string): ReceiveBlock {
  const target = { lengthBytes: 0n, file: -1, fileOffsetBytes: 0n, address: 0n, fresh: -1 };
  return { name, lengthBytes: 0, target, written: new SharedArrayBuffer(0) };
}
