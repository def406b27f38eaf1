/**
 * Recordings: what real QEMUs sent, once per process, for every fault to start from.
 *
 * The VM is small and mostly zeros, so that hundreds of replays stay quick, yet
 * every kind of packet is there: normal pages, zero pages, both, SYNC, on both
 * channels; and a machine's whole device part.
 */
import { closeSync, openSync, writeSync } from "node:fs";
import { join } from "node:path";
import type { QemuCompression } from "@multifd/protocol";
import { createScratchDir, QemuProcess, type QemuVersion, removeScratchDir, zeroImage } from "../peers/index.js";
import { type Recording, startRecorder } from "../recorder.js";

export const RAM_BYTES = 8 * 2 ** 20;
export const RAM_PAGES = RAM_BYTES / 4096;
export const CHANNELS = 2;
/** What every recording's channels bear. */
export const VM_UUID = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0";

const PAGE_BYTES = 4096;
/** In runs that cross packets' borders, with zero pages between. */
const FILLED_RUNS: readonly (readonly [first: number, pages: number])[] = [
  [0, 40],
  [100, 60],
  [500, 300],
  [2000, 48],
];

const known = new Map<string, Promise<Recording>>();

/** Records a migration of a paused VM; the same one for the same arguments. */
export function recordQemu(
  version: QemuVersion,
  compression: QemuCompression,
  channels = CHANNELS,
): Promise<Recording> {
  const key = `${version} ${compression} ${channels}`;
  const recording = known.get(key) ?? record(version, compression, channels);
  known.set(key, recording);
  return recording;
}

async function record(version: QemuVersion, compression: QemuCompression, channels: number): Promise<Recording> {
  const dir = createScratchDir();
  const path = join(dir, "ram");
  sparseImage(path);
  const recorder = await startRecorder(`unix:${join(dir, "socket")}`, channels);
  const extraArgs = ["-uuid", VM_UUID];
  const source = await QemuProcess.start({
    version,
    memory: [{ id: "pc.ram", path, bytes: RAM_BYTES }],
    paused: true,
    extraArgs,
  });
  try {
    await source.setMigration({ channels, compression });
    await source.migrateTo(recorder.address);
    return await recorder.recording;
  } finally {
    recorder.close();
    await source.stop();
    removeScratchDir(dir);
  }
}

/** Pages that compress, each different from all others, between pages of zeros. */
export function sparseImage(path: string): void {
  zeroImage(path, RAM_BYTES);
  const file = openSync(path, "r+");
  const page = Buffer.alloc(PAGE_BYTES);
  for (const [first, pages] of FILLED_RUNS) {
    for (let index = first; index < first + pages; index++) {
      for (let at = 0; at < PAGE_BYTES; at += 4) page.writeUInt32LE((index * 2654435761 + (at >> 5) * 40503) >>> 0, at);
      writeSync(file, page, 0, PAGE_BYTES, index * PAGE_BYTES);
    }
  }
  closeSync(file);
}
