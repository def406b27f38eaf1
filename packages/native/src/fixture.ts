/**
 * Test fixtures: a RAM block in shared memory, a packet over it, and a reader in a thread of its own.
 */
import { Worker } from "node:worker_threads";
import { registerFresh } from "./fresh-pages.js";
import { createMemfd, type Mapping, mapFile, readMemory, unmap, writeMemory } from "./mapping.js";
import { PacketBlock } from "./packet-block.js";
import { closeDescriptor } from "./sockets.js";

/** Header of a packet of 4 KiB pages; what is in it does not matter to the C library. */
export const HEADER_BYTES = 1344;

export type Block = {
  readonly fd: number;
  readonly mapping: Mapping;
  /** A second mapping, registered for making pages. */
  readonly fresh: { readonly mapping: Mapping; readonly descriptor: number };
  readonly content: () => Uint8Array;
  readonly close: () => void;
};

/** A RAM block of its own memory file, filled with `content` from its start. */
export function makeBlock(lengthBytes: number, content: Uint8Array = new Uint8Array()): Block {
  const fd = createMemfd("test", lengthBytes);
  const mapping = mapFile(fd, { lengthBytes, writable: true });
  writeMemory(mapping, 0, content);
  const freshMapping = mapFile(fd, { lengthBytes, writable: true });
  const fresh = { mapping: freshMapping, descriptor: registerFresh(freshMapping)! };
  return {
    fd,
    mapping,
    fresh,
    content: () => {
      const out = new Uint8Array(lengthBytes);
      readMemory(mapping, 0, out);
      return out;
    },
    close: () => {
      closeDescriptor(fresh.descriptor);
      unmap(fresh.mapping);
      unmap(mapping);
      closeDescriptor(fd);
    },
  };
}

/** How pages get into a block. */
export type Through = "mapping" | "file" | "fresh pages";

/** A packet that sends from `block`. */
export function packetFrom(block: Block, pageBytes: number): PacketBlock {
  const packet = new PacketBlock();
  packet.readFromFile(block.fd, 0n, BigInt(block.mapping.lengthBytes));
  packet.pageBytes = pageBytes;
  packet.headerBytes = HEADER_BYTES;
  return packet;
}

/** A packet that places into `block`. */
export function packetInto(block: Block, pageBytes: number, through: Through = "mapping"): PacketBlock {
  const packet = new PacketBlock();
  packet.placeInto(
    {
      lengthBytes: BigInt(block.mapping.lengthBytes),
      file: through === "mapping" ? -1 : block.fd,
      fileOffsetBytes: 0n,
      address: BigInt(through === "mapping" ? block.mapping.address : block.fresh.mapping.address),
      fresh: through === "fresh pages" ? block.fresh.descriptor : -1,
    },
    true,
  );
  packet.pageBytes = pageBytes;
  packet.headerBytes = HEADER_BYTES;
  return packet;
}

/** Lists pages, all of them normal until `preparePacket` looks. */
export function listPages(packet: PacketBlock, pages: readonly number[]): void {
  packet.pages.set(pages);
  packet.normalPages = pages.length;
  packet.zeroPages = 0;
}

/** Makes `to` expect the pages and payload that `from` has. */
export function announce(from: PacketBlock, to: PacketBlock): void {
  to.pages.set(from.pages);
  to.normalPages = from.normalPages;
  to.zeroPages = from.zeroPages;
  to.payloadBytes = from.payloadBytes;
}

/** Runs `receiveBytes(fd, count)` on a thread of its own, where it may block; answers once it is about to. */
export async function receiveInThread(fd: number, count: number): Promise<{ readonly received: Promise<Uint8Array> }> {
  const worker = new Worker(new URL("./fixture-thread.js", import.meta.url), { workerData: { fd, count } });
  const started = new Promise<void>((resolve) => worker.once("message", () => resolve()));
  const received = new Promise<Uint8Array>((resolve, reject) => {
    worker.on("message", (message: Uint8Array | "started") => {
      if (message !== "started") resolve(message);
    });
    worker.once("error", reject);
  });
  await started;
  return { received };
}
