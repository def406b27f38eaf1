/**
 * Recorded vectors: reads what real peers wrote, for the tests of this package.
 * Where each file comes from is written in vectors/README.md.
 */

import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { gunzipSync } from "node:zlib";
import { ChunkSource } from "./byte-source.js";
import type { MainEvent, MainStreamLimits } from "./main-events.js";
import { decodeMainStream } from "./main-stream-decoder.js";

const folder = new URL("../vectors/", import.meta.url);

/** The bytes of a vector, unpacked if its name ends in ".gz". */
export function vector(name: string): Uint8Array {
  const file = readFileSync(new URL(name, folder));
  return new Uint8Array(name.endsWith(".gz") ? gunzipSync(file) : file);
}

/** A recorded device section, taken apart: its name, version and data. */
export function recordedSection(name: string): { name: string; version: number; bytes: Uint8Array } {
  const section = Buffer.from(vector(name));
  const nameEnd = 6 + section[5]!;
  const footer = section.length - 5;
  return {
    name: section.toString("latin1", 6, nameEnd),
    version: section.readUInt32BE(nameEnd + 4),
    bytes: new Uint8Array(section.subarray(nameEnd + 8, footer)),
  };
}

/** A byte source over `bytes` in chunks of `chunkBytes`. */
export function sourceOf(bytes: Uint8Array, chunkBytes: number = bytes.length): ChunkSource {
  return new ChunkSource(chunksOf(bytes, chunkBytes));
}

async function* chunksOf(bytes: Uint8Array, chunkBytes: number): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += chunkBytes) yield bytes.subarray(at, at + chunkBytes);
}

/** Every event of a main stream; the bytes of pages are copied. */
export async function eventsOf(source: ChunkSource, limits?: Partial<MainStreamLimits>): Promise<MainEvent[]> {
  const events: MainEvent[] = [];
  for await (const event of decodeMainStream(source, limits))
    events.push(event.kind === "page" ? { ...event, bytes: event.bytes.slice() } : event);
  return events;
}

export function joined(...parts: readonly Uint8Array[]): Uint8Array {
  return Uint8Array.from(parts.flatMap((part) => [...part]));
}

describe("recorded vectors", () => {
  it("are all described in their README, and nothing else is", () => {
    const described = [...readFileSync(new URL("README.md", folder), "utf8").matchAll(/^\| (qemu-\S+) /gm)];
    const present = ["qemu-7.2", "qemu-11.1"].flatMap((peer) =>
      readdirSync(new URL(`${peer}/`, folder)).map((file) => `${peer}/${file}`),
    );
    assert.deepEqual(described.map((match) => match[1]).sort(), present.sort());
  });
});
