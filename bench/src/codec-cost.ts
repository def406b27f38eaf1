/**
 * Codec cost: CPU time of the C library's codecs on a guest's pages, without a wire.
 *
 * Each codec prepares the packets of one image, as a source does (read, zero scan, compress),
 * and places each in the same memory, as a destination does (decode, copy). Printed is the
 * least of the rounds, for disturbance only ever adds. `none` is what is left without a codec.
 *
 *     node bench/dist/codec-cost.js [RAM in MiB] [rounds] [image] [codecs, such as none,zlib:1,zstd:3]
 */
import { closeSync, mkdtempSync, openSync, rmSync } from "node:fs";
import {
  type CodecMethod,
  createCompressor,
  createDecompressor,
  createMemfd,
  freeCodec,
  mapFile,
  PacketBlock,
  placePages,
  preparePacket,
  threadCpuMs,
} from "@multifd/native";
import { PACKET_GUEST_BYTES } from "@multifd/protocol";
import { findImage } from "./images.js";

const MIB = 2 ** 20;
const PAGE_BYTES = 4096;
const PACKET_PAGES = PACKET_GUEST_BYTES / PAGE_BYTES;

const [ramMib = "256", rounds = "3", image = "mixed", codecs = "none,zlib:1,zstd:1,lz4:1"] = process.argv.slice(2);
const ramBytes = Number(ramMib) * MIB;
const dir = mkdtempSync("/dev/shm/multifd-codec-cost-");
const inOrder = Uint32Array.from({ length: PACKET_PAGES }, (_, page) => page);

type Cost = { prepareMs: number; placeMs: number; wireBytes: number };

/** Moves the image once, each packet into the same memory. */
function move(file: number, [method, level]: readonly [string, number], target: { address: number }): Cost {
  const packet = new PacketBlock();
  const open = method !== "none";
  const compressor = open ? createCompressor(method as CodecMethod, level) : 0;
  const decompressor = open ? createDecompressor(method as CodecMethod) : 0;
  const cost = { prepareMs: 0, placeMs: 0, wireBytes: 0 };
  packet.pageBytes = PAGE_BYTES;
  for (let at = 0; at < ramBytes; at += PACKET_GUEST_BYTES) {
    const startMs = threadCpuMs();
    packet.readFromFile(file, BigInt(at), BigInt(PACKET_GUEST_BYTES));
    packet.pages.set(inOrder);
    packet.normalPages = PACKET_PAGES;
    packet.zeroPages = 0;
    packet.codec = compressor;
    preparePacket(packet, true);
    const preparedMs = threadCpuMs();
    cost.prepareMs += preparedMs - startMs;
    cost.wireBytes += packet.payloadBytes;
    if (packet.normalPages === 0) continue;
    const place = { file: -1, fresh: -1, fileOffsetBytes: 0n, lengthBytes: BigInt(PACKET_GUEST_BYTES) };
    packet.placeInto({ ...place, address: BigInt(target.address) }, false);
    packet.codec = decompressor;
    placePages(packet);
    cost.placeMs += threadCpuMs() - preparedMs;
  }
  for (const handle of [compressor, decompressor]) if (handle !== 0) freeCodec(handle);
  return cost;
}

try {
  findImage(image).write(`${dir}/image`, ramBytes);
  const file = openSync(`${dir}/image`, "r");
  const memory = createMemfd("codec-cost", PACKET_GUEST_BYTES);
  const target = mapFile(memory, { lengthBytes: PACKET_GUEST_BYTES, writable: true });
  console.log(`${ramMib} MiB, ${image}, least of ${rounds} rounds; CPU s per GiB of guest RAM`);
  console.log(["codec".padEnd(10), "prepare", "  place", "wire MB per GiB"].join("  "));
  for (const text of codecs.split(",")) {
    const [method = "", level = "1"] = text.split(":");
    const costs = Array.from({ length: Number(rounds) }, () => move(file, [method, Number(level)], target));
    const perGib = (of: (cost: Cost) => number) => (Math.min(...costs.map(of)) / ramBytes) * 2 ** 30;
    const seconds = [perGib(({ prepareMs }) => prepareMs), perGib(({ placeMs }) => placeMs)];
    const figures = seconds.map((ms) => (ms / 1000).toFixed(3).padStart(7));
    const wire = (perGib(({ wireBytes }) => wireBytes) / 1e6).toFixed(1).padStart(15);
    console.log([text.padEnd(10), ...figures, wire].join("  "));
  }
  closeSync(file);
} finally {
  rmSync(dir, { recursive: true, force: true });
}
