/**
 * Test fixture: what of this process is open, so that a test can tell what it has left open.
 *
 * A process opens and closes files of its own accord: Node's threads come with pipes and polls of theirs, and end when
 * it suits them. So those are left out, the others are counted by what they are of, and whatever is on its way to be
 * closed has its time: only what stays has been left.
 */
import { readdirSync, readlinkSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";

/** A leak stays for ever; a thread or socket that was told to close may need a moment, longer on a busy machine. */
const CLOSING_MS = 10_000;
const POLL_MS = 20;
/** Of Node's threads only; nothing of ours opens any. */
const OF_NODE = /^(pipe:|anon_inode:\[(eventpoll|io_uring)\]|\/$|\/dev\/null$)/;

export type OpenFiles = ReadonlyMap<string, number>;

/** How many descriptors there are of each file, socket or whatever. */
export function openFiles(): OpenFiles {
  const counts = new Map<string, number>();
  for (const fd of readdirSync("/proc/self/fd")) {
    const file = fileOf(fd);
    if (file !== null && !OF_NODE.test(file)) counts.set(file, (counts.get(file) ?? 0) + 1);
  }
  return counts;
}

/** Waits until nothing is open that was not open `before`. @returns what stays all the same. */
export async function filesLeftOpen(before: OpenFiles): Promise<string[]> {
  const deadline = performance.now() + CLOSING_MS;
  for (;;) {
    const left = [...openFiles()].filter(([file, count]) => count > (before.get(file) ?? 0)).map(([file]) => file);
    if (left.length === 0 || performance.now() > deadline) return left;
    await sleep(POLL_MS);
  }
}

/** Null where it has been closed since it was listed, as the listing's own descriptor has. */
function fileOf(fd: string): string | null {
  try {
    return readlinkSync(`/proc/self/fd/${fd}`);
  } catch {
    return null;
  }
}
