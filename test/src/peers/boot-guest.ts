/**
 * Boot guest: a live guest whose RAM proves itself, seen through its shared RAM file.
 *
 * The guest (boot-guest.S) counts in every page of its range, sweep after sweep.
 * While it runs, its sweep number grows in the file; when it is stopped, every
 * counter must be `sweep + 1` up to the page it had reached and `sweep` from there on.
 * A page lost, stale or twice applied breaks that, and no original is needed to see it.
 * After each sweep it prints its number to its serial port: what two VMs have written,
 * one behind the other, must count on without a gap, cut within a line or not.
 *
 * Shared memory raises no event, so waiting for a sweep means looking again.
 */
import { execFileSync } from "node:child_process";
import { closeSync, openSync, readFileSync, readSync, writeSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as after } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { createScratchDir, removeScratchDir } from "./scratch-dir.js";

/** The pages that a guest counts in: guest addresses, which are offsets in the RAM file below 3 GiB. */
export type BootGuest = {
  /** From 1 MiB up; the firmware keeps to itself what is below, and the last 512 KiB of RAM. */
  readonly firstByte: number;
  readonly strideBytes: number;
  readonly pageCount: number;
  /** Pages counted a millisecond at most, the guest then sleeps; 0: as fast as it can. */
  readonly pagesPerTick: number;
};

/** Sweeps done, and the pages counted in the one under way. */
export type BootGuestState = { readonly sweep: number; readonly page: number };

/** 16 MiB from 1 MiB up, every page, as fast as it can: fits a VM of 32 MiB. */
export const sixteenMegabytes: BootGuest = { firstByte: 2 ** 20, strideBytes: 4096, pageCount: 4096, pagesPerTick: 0 };

const SOURCE = fileURLToPath(new URL("../../src/peers/boot-guest.S", import.meta.url));
const LOADED_AT = "0x7c00";
const PARAMETERS_AT = 0x1a0;
/** Where among them the pace is. */
const PACE_AT = 12;
const SECTOR_BYTES = 512;
/** Where a guest tells how far it has come: `decodeBootGuest`. */
export const BOOT_GUEST_STATE_AT = 0x1000;
export const BOOT_GUEST_STATE_BYTES = 12;
const MAGIC = 0x5747464d;
const ADDRESS_MAX = 3 * 2 ** 30;
const LOOK_AGAIN_MS = 5;

let assembled: Buffer | null = null;

/**
 * Assembles the guest and writes its range into it: for `QemuOptions.bootSector`.
 *
 * @throws {Error} if binutils (`as`, `ld`, `objcopy`) are not installed.
 */
export function bootGuestSector(guest: BootGuest): Uint8Array {
  const end = guest.firstByte + guest.strideBytes * guest.pageCount;
  if (guest.firstByte < 2 ** 20 || end > ADDRESS_MAX) {
    throw new RangeError(
      `boot guest: its range 0x${guest.firstByte.toString(16)} to 0x${end.toString(16)} leaves 1 MiB to 3 GiB`,
    );
  }
  assembled ??= assemble();
  const sector = Buffer.from(assembled);
  const parameters = [guest.firstByte, guest.strideBytes, guest.pageCount, guest.pagesPerTick];
  for (const [i, value] of parameters.entries()) sector.writeUInt32LE(value, PARAMETERS_AT + i * 4);
  return sector;
}

/** Sets how many pages a running guest counts a millisecond, 1 at least; it heeds that when it next begins to sleep. */
export function paceBootGuest(ramPath: string, pagesPerTick: number): void {
  const word = Buffer.alloc(4);
  word.writeUInt32LE(pagesPerTick);
  const file = openSync(ramPath, "r+");
  try {
    writeSync(file, word, 0, word.length, Number(LOADED_AT) + PARAMETERS_AT + PACE_AT);
  } finally {
    closeSync(file);
  }
}

/** Reads how far a guest has come; null while it has not begun to count. */
export function readBootGuest(ramPath: string): BootGuestState | null {
  return decodeBootGuest(readAt(ramPath, BOOT_GUEST_STATE_AT, BOOT_GUEST_STATE_BYTES));
}

/** The same out of the bytes at `BOOT_GUEST_STATE_AT`, for whoever looks often. */
export function decodeBootGuest(state: Buffer): BootGuestState | null {
  if (state.readUInt32LE(0) !== MAGIC) return null;
  return { sweep: state.readUInt32LE(4), page: state.readUInt32LE(8) };
}

/**
 * Checks every counter of a guest that is stopped. On one that runs it means nothing.
 *
 * @returns How far the guest has come.
 * @throws {Error} naming the first page whose counter does not fit.
 */
export function checkBootGuest(ramPath: string, guest: BootGuest): BootGuestState {
  const state = readBootGuest(ramPath);
  if (!state) throw new Error(`boot guest in ${ramPath}: it has never begun to count`);
  const ram = readAt(ramPath, guest.firstByte, guest.strideBytes * guest.pageCount);
  const counters = Array.from({ length: guest.pageCount }, (_, k) => ram.readUInt32LE(k * guest.strideBytes));
  let counted = counters.findIndex((counter) => counter !== state.sweep + 1);
  if (counted < 0) counted = guest.pageCount;
  const wrong = counters.findIndex((counter, k) => k >= counted && counter !== state.sweep);
  const where = `boot guest in ${ramPath}, stopped in sweep ${state.sweep} at page ${state.page}`;
  if (wrong >= 0) {
    const due = wrong < state.page ? state.sweep + 1 : state.sweep;
    throw new Error(
      `${where}: page ${wrong} of its range holds ${counters[wrong]}, due ${due}; a page is lost or stale`,
    );
  }
  // It may stop between counting a page and noting it, or between noting the sweep and its first page.
  const fits =
    counted - state.page === 0 || counted - state.page === 1 || (counted === 0 && state.page === guest.pageCount);
  if (!fits)
    throw new Error(`${where}: but ${counted} pages are counted; its first page and the counters do not match`);
  return state;
}

/**
 * Waits until a guest has done that many sweeps.
 *
 * @throws {Error} if it has not by then.
 */
export async function waitForSweep(ramPath: string, sweep: number, timeoutMs = 30_000): Promise<BootGuestState> {
  const deadline = Date.now() + timeoutMs;
  for (;;) {
    const state = readBootGuest(ramPath);
    if (state && state.sweep >= sweep) return state;
    if (Date.now() > deadline) {
      const reached = state ? `sweep ${state.sweep}` : "no sweep at all";
      throw new Error(`boot guest in ${ramPath}: ${reached} within ${timeoutMs} ms, due ${sweep}; does the guest run?`);
    }
    await after(LOOK_AGAIN_MS);
  }
}

/** Waits until a guest has done a sweep more than it has now: the proof that it runs. */
export async function waitForProgress(ramPath: string, timeoutMs = 30_000): Promise<BootGuestState> {
  return waitForSweep(ramPath, (readBootGuest(ramPath)?.sweep ?? 0) + 1, timeoutMs);
}

/**
 * Checks what a guest has printed, in several VMs one after the other if it has moved.
 *
 * @param outputs  Files of the serial ports, in the order of the VMs.
 * @returns The last sweep that was printed whole, 0 for none.
 * @throws {Error} naming the first line that is out of sequence.
 */
export function checkSerialOutput(...outputs: readonly string[]): number {
  const lines = outputs
    .map((path) => readFileSync(path, "latin1"))
    .join("")
    .split("\n");
  lines.pop(); // being printed
  const wrong = lines.findIndex((line, index) => line !== (index + 1).toString(16).padStart(8, "0"));
  if (wrong < 0) return lines.length;
  throw new Error(
    `${outputs.join(" and ")}: line ${wrong + 1} is "${lines[wrong]}"; output is lost, repeated or out of order`,
  );
}

function assemble(): Buffer {
  const dir = createScratchDir("disk");
  const [object, linked, binary] = ["guest.o", "guest.elf", "guest.bin"].map((name) => join(dir, name)) as [
    string,
    string,
    string,
  ];
  try {
    execFileSync("as", ["--32", "-o", object, SOURCE]);
    execFileSync("ld", ["-m", "elf_i386", "-Ttext", LOADED_AT, "-o", linked, object]);
    execFileSync("objcopy", ["-O", "binary", "-j", ".text", linked, binary]);
    const sector = readFileSync(binary);
    if (sector.length !== SECTOR_BYTES) throw new Error(`it has ${sector.length} bytes, due ${SECTOR_BYTES}`);
    return sector;
  } catch (cause) {
    throw new Error("boot guest: cannot assemble it; install binutils with: sh test/peers/setup.sh", { cause });
  } finally {
    removeScratchDir(dir);
  }
}

function readAt(path: string, at: number, bytes: number): Buffer {
  const file = openSync(path, "r");
  try {
    const into = Buffer.alloc(bytes);
    const got = readSync(file, into, 0, bytes, at);
    if (got !== bytes) throw new Error(`${path} ends at ${at + got}, but ${bytes} bytes were due at ${at}`);
    return into;
  } finally {
    closeSync(file);
  }
}
