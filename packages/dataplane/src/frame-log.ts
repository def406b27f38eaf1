/**
 * Frame log: the file that all channels of one migration append frames to, and what they share about it.
 *
 * A place in the file is claimed with one atomic add, so frames never overlap
 * and nobody waits. A page map is a block's account: for each page the unit of the
 * frame with its newest bytes, 0 for a page of zeros. No page comes twice between
 * two syncs, so the last store is the newest. Format: protocol, compressed-snapshot.ts.
 */
import { ConfigError, FRAME_UNIT_BYTES } from "@multifd/protocol";

/** What the threads get to know of a log. */
export type FrameLog = {
  /** Descriptor, open for reading and writing; stays its owner's to close. */
  readonly file: number;
  /** 32-bit words: the next unit that nobody has claimed, and the number of claims. */
  readonly end: SharedArrayBuffer;
  /** Of zstd. */
  readonly level: number;
};

/** Units can be told in 32 bits; this leaves one frame per channel before they wrap. */
const UNITS_MAX = 2 ** 32 - 2 ** 20;

/** The file's first unit is its header's. */
export function createFrameLog(file: number, level: number): FrameLog {
  const end = new SharedArrayBuffer(8);
  new Int32Array(end)[0] = 1;
  return { file, end, level };
}

/** The first unit behind all that has been claimed. */
export function frameLogEnd(log: FrameLog): number {
  return Atomics.load(new Int32Array(log.end), 0) >>> 0;
}

/** Frames that have been appended so far. */
export function frameLogCount(log: FrameLog): number {
  return Atomics.load(new Int32Array(log.end), 1) >>> 0;
}

/**
 * Claims room for `bytes` bytes.
 *
 * @returns The unit it begins at.
 * @throws {ConfigError} SNAPSHOT_SIZE, where the file would grow beyond 16 TiB.
 */
export function claimUnits(log: FrameLog, bytes: number): number {
  const unit = Atomics.add(new Int32Array(log.end), 0, Math.ceil(bytes / FRAME_UNIT_BYTES)) >>> 0;
  Atomics.add(new Int32Array(log.end), 1, 1);
  if (unit < UNITS_MAX) return unit;
  throw new ConfigError(
    "SNAPSHOT_SIZE",
    "the compressed snapshot grows beyond 16 TiB; let the guest write less while it is saved, or write mapped-ram",
  );
}

/** A block's page map, every page zero. */
export function createPageMap(pageCount: number): SharedArrayBuffer {
  return new SharedArrayBuffer(pageCount * 4);
}
