/**
 * QEMU command line: what a test says about a VM, in QEMU's words.
 *
 * Every VM runs without configuration, default devices or display, on TCG unless a test says otherwise,
 * so that two started alike have the same RAM blocks and devices, as a migration demands.
 */
import { join } from "node:path";
import type { QemuVersion } from "./qemu-binary.js";

/**
 * A RAM block in a shared file, on hugetlbfs or any other. QEMU makes the file, or grows it, if need be.
 * `id` is the block's name in the stream. `bytes` must be a multiple of 8192.
 */
export type RamFile = { readonly id: string; readonly path: string; readonly bytes: number };

export type QemuOptions = {
  readonly version: QemuVersion;
  /** Machine type, versioned or not; `pc` unless given. */
  readonly machine?: string;
  /** One file becomes the machine's main RAM (name it `pc.ram` to match a VM without backend); several, NUMA nodes; none, QEMU's own. */
  readonly memory: readonly RamFile[];
  /** What runs its processor; `tcg` unless given, which every machine has. */
  readonly accelerator?: "tcg" | "kvm";
  /** Starts with no vCPU running (`-S`). */
  readonly paused?: boolean;
  /** `-incoming`: `defer`, then `listen`; or an address at once. */
  readonly incoming?: string;
  /** What the first disk holds; the guest boots from it. */
  readonly bootSector?: Uint8Array;
  /** File that the first serial port writes to; without it there is no port. */
  readonly serial?: string;
  readonly extraArgs?: readonly string[];
  /** Added to its environment. */
  readonly env?: Readonly<Record<string, string>>;
};

/** Where a VM dials for its monitor. */
export function qmpSocket(dir: string): string {
  return join(dir, "qmp.sock");
}

/** Where its first disk is, if it has one. */
export function bootDisk(dir: string): string {
  return join(dir, "boot.img");
}

/** The arguments of a VM whose sockets and disk are in `dir`. Devices: none but those named and the machine's own. */
export function qemuArguments(options: QemuOptions, dir: string): string[] {
  const { machine = "pc", memory, accelerator = "tcg" } = options;
  const only = memory.length === 1 ? memory[0] : undefined;
  const args = [
    "-nodefaults",
    "-no-user-config",
    "-display",
    "none",
    "-accel",
    accelerator,
    "-qmp",
    `unix:${qmpSocket(dir)}`,
  ];
  for (const { id, path, bytes } of memory) {
    args.push("-object", `memory-backend-file,id=${id},size=${bytes},mem-path=${path},share=on`);
  }
  args.push("-machine", only ? `${machine},memory-backend=${only.id}` : machine);
  if (memory.length > 0) args.push("-m", `${memory.reduce((sum, { bytes }) => sum + bytes, 0)}B`);
  if (!only) for (const { id } of memory) args.push("-numa", `node,memdev=${id}`);
  if (options.bootSector) {
    args.push("-drive", `if=none,id=boot,format=raw,file=${bootDisk(dir)}`, "-device", "ide-hd,drive=boot,bus=ide.0");
  }
  if (options.serial !== undefined) args.push("-serial", `file:${options.serial}`);
  if (options.paused) args.push("-S");
  if (options.incoming !== undefined) args.push("-incoming", options.incoming);
  return [...args, ...(options.extraArgs ?? [])];
}
