/**
 * Installed QEMU: whether the one to compare with is here, and which it is.
 */
import { execFileSync } from "node:child_process";
import { findQemu, type QemuVersion } from "@multifd/test/peers";

/** @returns what it says it is; null where there is none of that version. */
export function installedQemu(version: QemuVersion): string | null {
  try {
    const { command, args } = findQemu(version);
    return execFileSync(command, [...args, "--version"], { encoding: "utf8" }).split("\n", 1)[0]!;
  } catch {
    return null;
  }
}
