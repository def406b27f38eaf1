/**
 * Live VM: a boot-sector guest under TCG that has written its whole working set and is held to a rate.
 *
 * The guest (test/src/peers/boot-guest.S) counts in every page. It first sweeps its working set once as
 * fast as it can, so that no page of it is zero; what lies behind that is filled beforehand, for the demo's
 * guest, which it is measured beside, has all of its RAM to send, too. Owns the QEMU, not the RAM file.
 */
import { closeSync, ftruncateSync, openSync, writeSync } from "node:fs";
import {
  type BootGuest,
  bootGuestSector,
  checkBootGuest,
  paceBootGuest,
  QemuProcess,
  type QemuVersion,
  readBootGuest,
  waitForSweep,
} from "@multifd/test/peers";
import { RAM_BLOCK } from "../endpoint.js";
import type { LiveJob } from "./live-migration.js";

const PAGE_BYTES = 4096;
const TICKS_PER_SECOND = 1000;
const FIRST_BYTE = 2 ** 20;
const FILL_BYTES = 2 ** 20;
/** Counting so many pages takes longer than a tick, so the guest hardly sleeps. */
const UNPACED = 2 ** 14;
const SWEEP_TIMEOUT_MS = 60_000;

export class LiveVm {
  readonly vm: QemuProcess;
  readonly ramPath: string;
  readonly #guest: BootGuest;
  #before = { pages: 0, atMs: 0 };

  private constructor(vm: QemuProcess, ramPath: string, guest: BootGuest) {
    this.vm = vm;
    this.ramPath = ramPath;
    this.#guest = guest;
  }

  /** Resolves when the guest writes at its rate. */
  static async start(version: QemuVersion, job: LiveJob, ramPath: string): Promise<LiveVm> {
    const guest = guestOf(job);
    fillBehind(ramPath, job, FIRST_BYTE + job.workingSetBytes);
    const vm = await QemuProcess.start(vmOptions(version, job, ramPath));
    try {
      await waitForSweep(ramPath, 1, SWEEP_TIMEOUT_MS);
      paceBootGuest(ramPath, Math.max(1, Math.round(job.rate / PAGE_BYTES / TICKS_PER_SECOND)));
      return new LiveVm(vm, ramPath, guest);
    } catch (error) {
      await vm.stop();
      throw error;
    }
  }

  /** A QEMU that waits for such a guest, its RAM in a file of its own. */
  static startWaiting(version: QemuVersion, job: LiveJob, ramPath: string): Promise<QemuProcess> {
    return QemuProcess.start({ ...vmOptions(version, job, ramPath), incoming: "defer" });
  }

  /** From here on its pages are counted. */
  beginCount(): void {
    this.#before = { pages: this.#pages(), atMs: performance.now() };
  }

  /** Bytes dirtied a second since `beginCount`. @param pausedMs  How long it has stood still meanwhile. */
  reachedRate(pausedMs: number): number {
    const elapsedMs = performance.now() - this.#before.atMs - pausedMs;
    return ((this.#pages() - this.#before.pages) * PAGE_BYTES * 1000) / Math.max(1, elapsedMs);
  }

  /** @throws {Error} where the guest, which must stand still, has lost a write. */
  check(): void {
    checkBootGuest(this.ramPath, this.#guest);
  }

  #pages(): number {
    const { sweep, page } = readBootGuest(this.ramPath) ?? { sweep: 0, page: 0 };
    return sweep * this.#guest.pageCount + page;
  }
}

function fillBehind(path: string, { ramBytes }: LiveJob, fromByte: number): void {
  const file = openSync(path, "w", 0o600);
  try {
    ftruncateSync(file, ramBytes);
    const contents = Buffer.alloc(FILL_BYTES, 0x5a);
    for (let at = fromByte; at < ramBytes; at += contents.length)
      writeSync(file, contents, 0, Math.min(contents.length, ramBytes - at), at);
  } finally {
    closeSync(file);
  }
}

function guestOf(job: LiveJob): BootGuest {
  return {
    firstByte: FIRST_BYTE,
    strideBytes: PAGE_BYTES,
    pageCount: job.workingSetBytes / PAGE_BYTES,
    pagesPerTick: UNPACED,
  };
}

/** Beside the monitor that the harness uses each VM has one for whoever drives it: `monitorPath`. */
function vmOptions(version: QemuVersion, job: LiveJob, ramPath: string) {
  return {
    version,
    bootSector: bootGuestSector(guestOf(job)),
    memory: [{ id: RAM_BLOCK, path: ramPath, bytes: job.ramBytes }],
    extraArgs: ["-qmp", `unix:${monitorPath(ramPath)},server=on,wait=off`],
  };
}

export function monitorPath(ramPath: string): string {
  return `${ramPath}.qmp`;
}
