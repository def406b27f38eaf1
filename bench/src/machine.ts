/**
 * Machine: what was measured on, and whether it has the room.
 */
import { readFileSync } from "node:fs";
import { cpus, loadavg, release } from "node:os";

export type Machine = {
  readonly cpu: string;
  readonly cores: number;
  readonly memoryBytes: number;
  readonly kernel: string;
  readonly node: string;
  /** Of the last minute, before we began; above a few tenths the figures are not worth much. */
  readonly load: number;
};

export function describeMachine(): Machine {
  const cores = cpus();
  return {
    cpu: cores[0]?.model ?? "unknown",
    cores: cores.length,
    memoryBytes: memoryInfo("MemTotal"),
    kernel: release(),
    node: process.version,
    load: loadavg()[0]!,
  };
}

/** Beside image and destination: the endpoints, and air. */
const SPARE_BYTES = 2 ** 30;

/** @throws {Error} where image and destination do not fit into memory together. */
export function checkRoom(ramBytes: number, imageBytes: number, receivedBytes: number): void {
  const what = `an image and a destination of ${gib(ramBytes)} GiB; take a smaller --ram-bytes`;
  requireRoom(imageBytes + receivedBytes, what);
}

/** @throws {Error} where a destination does not fit into memory. */
export function checkArrivalRoom(ramBytes: number): void {
  requireRoom(ramBytes, `a destination of ${gib(ramBytes)} GiB; take a smaller --ram-bytes`);
}

function requireRoom(bytes: number, what: string): void {
  const available = memoryInfo("MemAvailable");
  if (available >= bytes + SPARE_BYTES) return;
  throw new Error(`${gib(available)} GiB of memory are free, ${gib(bytes + SPARE_BYTES)} are needed for ${what}`);
}

function gib(bytes: number): string {
  return (bytes / 2 ** 30).toFixed(1);
}

function memoryInfo(field: string): number {
  const found = new RegExp(`^${field}:\\s*(\\d+) kB$`, "m").exec(readFileSync("/proc/meminfo", "utf8"));
  return Number(found?.[1] ?? 0) * 1024;
}
