/**
 * QEMU's end: noticed, asked for, or brought about.
 */
import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { MigrationError } from "@multifd/protocol";
import type { QmpClient } from "../qmp-client.js";

/** How long a QEMU may take to end by itself. */
const QUIT_MS = 3000;
const LOOK_MS = 20;

/** Resolves when QEMU has gone, or its QMP socket with it. Never rejects. */
export async function qemuGone(qmp: QmpClient): Promise<void> {
  const events = qmp.events();
  for (;;) {
    try {
      if ((await events.next()).done) return;
    } catch {
      return;
    }
  }
}

/** Ends QEMU; the socket may close before the answer. @throws {MigrationError} where QEMU does not do it. */
export async function quitQemu(qmp: QmpClient): Promise<void> {
  try {
    await qmp.execute("quit");
  } catch (error) {
    if (!(error instanceof MigrationError) || error.code !== "QMP_CLOSED") throw error;
  }
}

/** Ends a QEMU for good: asked first, then killed. Resolves when its process is gone. Never rejects. */
export async function endQemu(qmp: QmpClient, pid: number): Promise<void> {
  await qmp.execute("quit", {}, QUIT_MS).catch(() => {}); // it is gone, or hangs: seen to below
  for (const deadline = performance.now() + QUIT_MS; performance.now() < deadline; await sleep(LOOK_MS)) {
    if (!lives(pid)) return;
  }
  try {
    process.kill(pid, "SIGKILL");
  } catch {
    return; // it has ended meanwhile, or is another user's
  }
  while (lives(pid)) await sleep(LOOK_MS);
}

function lives(pid: number): boolean {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "latin1");
    return !/^[ZX]$/.test(stat.slice(stat.lastIndexOf(")") + 2).charAt(0));
  } catch {
    return false;
  }
}
