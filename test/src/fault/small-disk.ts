/**
 * Small disk: a file system that is soon full, for tests that need one.
 *
 * A tmpfs of a few megabytes, mounted while it is used. Mounting takes root; where
 * it is not permitted the test fails by name rather than pass in silence.
 */
import { execFileSync } from "node:child_process";
import { createScratchDir, removeScratchDir } from "../peers/index.js";

/** @param bytes  Its size. @returns Where it is mounted; `unmountSmallDisk` ends it. */
export function mountSmallDisk(bytes: number): string {
  const dir = createScratchDir("disk");
  try {
    execFileSync("mount", ["-t", "tmpfs", "-o", `size=${bytes}`, "tmpfs", dir], { stdio: "pipe" });
    return dir;
  } catch (cause) {
    removeScratchDir(dir);
    throw new Error(`a full disk cannot be tried: mount -t tmpfs is not permitted; run the tests as root`, { cause });
  }
}

export function unmountSmallDisk(dir: string): void {
  execFileSync("umount", [dir], { stdio: "pipe" });
  removeScratchDir(dir);
}
