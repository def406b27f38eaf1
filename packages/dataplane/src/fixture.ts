/**
 * Test fixtures: threads, RAM blocks in memory files, and a channel's bytes taken apart.
 */
import assert from "node:assert/strict";
import { fstatSync, readFileSync } from "node:fs";
import { type MessagePort, Worker } from "node:worker_threads";
import { gunzipSync } from "node:zlib";
import {
  closeDescriptor,
  createMemfd,
  type Mapping,
  mapFile,
  readMemory,
  registerFresh,
  unmap,
  writeMemory,
} from "@multifd/native";
import {
  checkPageCounts,
  checkPayload,
  decodeRamPacketHeader,
  encodeRamPacketHeader,
  methodFlag,
  PACKET_DEVICE_STATE,
  type PacketMethod,
  putPageOffsets,
  RAM_PACKET_HEADER_BYTES,
  type RamPacketHeader,
  ramPacketBytes,
} from "@multifd/protocol";
import type { ThreadJob } from "./fixture-thread.js";

export const PAGE = 4096;

/** Runs a job on a thread of its own; resolves to its answer. */
export function runInThread<T>(job: ThreadJob, transferList: readonly MessagePort[] = []): Promise<T> {
  const thread = new Worker(new URL("./fixture-thread.js", import.meta.url), {
    workerData: job,
    transferList: [...transferList],
  });
  return new Promise((resolve, reject) => {
    thread.once("message", resolve);
    thread.once("error", reject);
    thread.once("exit", (code) => reject(new Error(`the thread ended with ${code} and no answer`)));
  });
}

/** A RAM block in a memory file of its own. */
export type TestBlock = {
  readonly name: string;
  readonly descriptor: number;
  readonly lengthBytes: number;
  readonly mapping: Mapping;
  /** A second mapping, registered for making pages. */
  readonly fresh: { readonly mapping: Mapping; readonly descriptor: number };
  page(index: number): Buffer;
  write(index: number, bytes: Uint8Array): void;
  /** Bytes of memory behind the file: a hole takes none. */
  storedBytes(): number;
  close(): void;
};

export function testBlock(name: string, pages: number): TestBlock {
  const descriptor = createMemfd("test", pages * PAGE);
  const lengthBytes = pages * PAGE;
  const mapping = mapFile(descriptor, { lengthBytes, writable: true });
  const freshMapping = mapFile(descriptor, { lengthBytes, writable: true });
  const fresh = { mapping: freshMapping, descriptor: registerFresh(freshMapping)! };
  return {
    name,
    lengthBytes,
    descriptor,
    mapping,
    fresh,
    page: (index) => {
      const out = Buffer.alloc(PAGE);
      readMemory(mapping, index * PAGE, out);
      return out;
    },
    write: (index, bytes) => writeMemory(mapping, index * PAGE, bytes),
    storedBytes: () => fstatSync(descriptor).blocks * 512,
    close: () => {
      closeDescriptor(fresh.descriptor);
      unmap(fresh.mapping);
      unmap(mapping);
      closeDescriptor(descriptor);
    },
  };
}

/** What QEMU wrote, from packages/protocol/vectors. */
export function vector(name: string): Buffer {
  return gunzipSync(readFileSync(new URL(`../../protocol/vectors/${name}`, import.meta.url)));
}

/** A RAM packet as it came; its pages are numbers, its payload still compressed. */
export type WirePacket = RamPacketHeader & { readonly pages: readonly number[]; readonly payload: Buffer };
/** Anything that is no RAM packet: a device's state, header and payload. */
export type WireDeviceState = { readonly device: string; readonly instanceId: number; readonly state: Buffer };

/** Takes a channel's bytes apart; every byte must belong to a packet. */
export function takeApart(wire: Buffer, ...methods: readonly PacketMethod[]): (WirePacket | WireDeviceState)[] {
  const view = new DataView(wire.buffer, wire.byteOffset, wire.byteLength);
  const packets: (WirePacket | WireDeviceState)[] = [];
  for (let at = 0; at < wire.length; ) {
    if (wire.readUInt32BE(at + 8) === PACKET_DEVICE_STATE) {
      const bytes = wire.readUInt32BE(at + 272);
      const device = wire.toString("utf8", at + 12, wire.indexOf(0, at + 12));
      const state = wire.subarray(at + 276, at + 276 + bytes);
      packets.push({ device, instanceId: wire.readUInt32BE(at + 268), state });
      at += 276 + bytes;
      continue;
    }
    const header = decodeRamPacketHeader(view, at);
    checkPageCounts(header, 128);
    const payloadBytes = checkPayload(header, methods, PAGE);
    const offset = (slot: number) => Number(wire.readBigUInt64BE(at + RAM_PACKET_HEADER_BYTES + 8 * slot));
    const pages = Array.from({ length: header.normalPages + header.zeroPages }, (_, slot) => offset(slot) / PAGE);
    at += ramPacketBytes(PAGE);
    packets.push({ ...header, pages, payload: wire.subarray(at, at + payloadBytes) });
    at += payloadBytes;
  }
  return packets;
}

/** The RAM packets among them, in order. */
export function ramPackets(packets: readonly (WirePacket | WireDeviceState)[]): WirePacket[] {
  return packets.filter((packet): packet is WirePacket => "ramBlock" in packet);
}

type Fields = {
  readonly normal?: readonly number[];
  readonly zero?: readonly number[];
  readonly payload?: Uint8Array;
  readonly method?: PacketMethod;
  /** What differs from an honest header. */
  readonly header?: Partial<RamPacketHeader>;
  /** Byte offsets that replace those of the first pages. */
  readonly offsets?: readonly number[];
};

/** A RAM packet of block "ram" for a receiver, payload included. */
export function ramPacket({ normal = [], zero = [], payload, method = "none", header, offsets = [] }: Fields): Buffer {
  const bytes = payload ?? Buffer.concat(normal.map((page) => filledPage(page)));
  const out = Buffer.alloc(ramPacketBytes(PAGE));
  const view = new DataView(out.buffer, out.byteOffset, out.length);
  encodeRamPacketHeader(view, 0, {
    flags: methodFlag(method),
    pagesMax: 128,
    normalPages: normal.length,
    payloadBytes: bytes.length,
    packetNumber: 0,
    zeroPages: zero.length,
    ramBlock: "ram",
    ...header,
  });
  const pages = Uint32Array.from([...normal, ...zero]);
  putPageOffsets(view, RAM_PACKET_HEADER_BYTES, pages, 0, pages.length, PAGE);
  for (const [slot, offset] of offsets.entries())
    out.writeBigUInt64BE(BigInt(offset), RAM_PACKET_HEADER_BYTES + 8 * slot);
  return Buffer.concat([out, bytes]);
}

/** A page that no other page equals. */
export function filledPage(page: number, version = 1): Buffer {
  const out = Buffer.alloc(PAGE);
  for (let at = 0; at < PAGE; at += 8) out.writeUInt32LE(page * 1009 + version * 31 + at, at);
  return out;
}

export function assertZero(page: Uint8Array, what: string): void {
  assert.ok(
    page.every((byte) => byte === 0),
    what,
  );
}
