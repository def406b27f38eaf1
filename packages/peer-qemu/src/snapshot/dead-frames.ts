/**
 * Dead frames: room in a compressed snapshot that nothing points to any more.
 *
 * A guest that runs while it is saved sends pages again, and a frame of which
 * every page has come again is dead. When the file is finished their room goes back
 * to the file system as holes; a frame with one page that counts stays whole. So what
 * is wasted is bounded by what the guest wrote while it was saved, and writing the
 * snapshot anew (`multifd convert`) drops that as well.
 */
import { readSync } from "node:fs";
import { type FrameLog, frameLogCount, frameLogEnd } from "@multifd/dataplane";
import { punchFile } from "@multifd/native";
import { FRAME_UNIT_BYTES, frameHeader, SystemError } from "@multifd/protocol";

/** Frees the room of dead frames, where the file system has holes. The log is complete but for the page maps. */
export function punchDeadFrames(log: FrameLog, pageMaps: readonly SharedArrayBuffer[]): void {
  const live = new Set<number>();
  for (const pageMap of pageMaps) for (const unit of new Uint32Array(pageMap)) if (unit !== 0) live.add(unit);
  if (live.size === frameLogCount(log)) return;
  let free = 1;
  for (const unit of [...Uint32Array.from(live).sort(), frameLogEnd(log)]) {
    if (unit > free && !punch(log.file, free, unit)) return;
    if (unit < frameLogEnd(log)) free = unit + unitsOfFrame(log.file, unit);
  }
}

/** @returns false where the file system has no holes. */
function punch(file: number, from: number, to: number): boolean {
  try {
    punchFile(file, from * FRAME_UNIT_BYTES, (to - from) * FRAME_UNIT_BYTES);
    return true;
  } catch (error) {
    if (error instanceof SystemError && error.code === "SYSTEM_EOPNOTSUPP") return false;
    throw error;
  }
}

/** What we have written ourselves needs no checks. */
function unitsOfFrame(file: number, unit: number): number {
  const head = Buffer.alloc(frameHeader.size);
  readSync(file, head, 0, head.length, unit * FRAME_UNIT_BYTES);
  const { pages, payloadBytes } = frameHeader.decode(head);
  return Math.ceil((frameHeader.size + 4 * pages + payloadBytes) / FRAME_UNIT_BYTES);
}
