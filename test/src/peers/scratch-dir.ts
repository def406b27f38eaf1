/**
 * Scratch directories: where tests keep sockets and RAM images, gone when the process is.
 *
 * RAM images belong on /dev/shm, for a VM maps them; sockets belong in short
 * paths, for a unix socket's name ends at 107 bytes. Each directory is removed
 * by its owner, or at the latest when the process exits, failed tests and SIGTERM included.
 */
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const live = new Set<string>();
process.on("exit", () => {
  for (const path of live) rmSync(path, { recursive: true, force: true });
});
// A signal's default action would skip every `exit` handler, and leave gigabytes of RAM and QEMUs behind.
for (const [signal, status] of [
  ["SIGHUP", 129],
  ["SIGTERM", 143],
] as const) {
  process.once(signal, () => process.exit(status));
}

/** Makes an empty directory, in RAM (`"ram"`: /dev/shm where there is one) or on disk, and returns its path. */
export function createScratchDir(where: "ram" | "disk" = "ram"): string {
  const parent = where === "ram" && existsSync("/dev/shm") ? "/dev/shm" : tmpdir();
  const path = mkdtempSync(join(parent, "multifd-"));
  live.add(path);
  return path;
}

/** Removes a directory made by `createScratchDir`, with all that is in it. */
export function removeScratchDir(path: string): void {
  rmSync(path, { recursive: true, force: true });
  live.delete(path);
}
