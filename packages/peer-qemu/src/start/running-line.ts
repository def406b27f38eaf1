/**
 * Running line: with what command line a QEMU that runs here was started.
 */
import { readFileSync, readlinkSync } from "node:fs";
import { ConfigError } from "@multifd/protocol";

export type RunningLine = {
  readonly words: readonly string[];
  /** What its relative paths begin at. */
  readonly folder: string;
  /** Whether it has the preload library, and was told to use it. */
  readonly preloaded: boolean;
};

/** @throws {ConfigError} QEMU_PID. */
export function readRunningLine(pid: number): RunningLine {
  try {
    const words = wordsOf(pid, "cmdline");
    if (words.length > 0) return { words, folder: readlinkSync(`/proc/${pid}/cwd`), preloaded: isPreloaded(pid) };
  } catch (cause) {
    throw new ConfigError(
      "QEMU_PID",
      `with what process ${pid} was started cannot be read: ${(cause as Error).message}; run as QEMU's user, or as root`,
      { cause },
    );
  }
  throw new ConfigError("QEMU_PID", `process ${pid} has no command line: it has ended, or is the kernel's`);
}

function wordsOf(pid: number, file: "cmdline" | "environ"): string[] {
  const text = readFileSync(`/proc/${pid}/${file}`, "utf8");
  return text === "" ? [] : text.replace(/\0$/, "").split("\0");
}

function isPreloaded(pid: number): boolean {
  const environment = wordsOf(pid, "environ");
  return (
    environment.some((word) => /^LD_PRELOAD=.*multifd-track\.so/.test(word)) &&
    environment.some((word) => /^MULTIFD_TRACK=./.test(word))
  );
}
