/**
 * Guest process: one multifd-guest, from its start to its end.
 *
 * It is ready when it says so on stdout, its RAM filled and its socket listening.
 * It goes with this process, whatever kills that, and is ended by its own id.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import type { Address } from "@multifd/channel";
import { ConfigError, SystemError } from "@multifd/protocol";
import { endProcess } from "./end-process.js";

export type GuestOptions = {
  readonly socketPath: string;
  readonly ramBytes: number;
  /** Source only: bytes of RAM dirtied per second. */
  readonly rate?: number;
  /** Source only: bytes of RAM that are dirtied; a quarter of it when not given. */
  readonly workingSetBytes?: number;
  /** Waits for a migration; then runs on a private copy, so that what arrived stays comparable. */
  readonly incoming: boolean;
};

export class GuestProcess {
  readonly address: Address;
  readonly #child: ChildProcess;

  private constructor(child: ChildProcess, socketPath: string) {
    this.#child = child;
    this.address = { kind: "unix", path: socketPath };
  }

  /**
   * @throws {ConfigError} NOT_BUILT; {SystemError} GUEST_START, with the guest's own words: no memory, path taken.
   */
  static async start(options: GuestOptions): Promise<GuestProcess> {
    const child = spawn(guestProgram(), guestArguments(options), { stdio: ["ignore", "pipe", "pipe"], detached: true });
    let complaint = "";
    child.stderr?.on("data", (chunk: Buffer) => {
      complaint = (complaint + chunk.toString()).slice(-2000);
    });
    const ended = new Promise<never>((_, reject) => {
      const fail = (why: string) => reject(new SystemError("GUEST_START", `the guest process did not start: ${why}`));
      child.once("error", (cause) => fail(cause.message));
      child.once("close", (code, signal) => fail(complaint.trim() || `it ended with ${signal ?? code}`));
    });
    const listening = once(createInterface({ input: child.stdout! }), "line");
    await Promise.race([listening, ended]);
    ended.catch(() => {}); // from here on its end is found where it matters, on its socket
    return new GuestProcess(child, options.socketPath);
  }

  get pid(): number {
    return this.#child.pid!;
  }

  /** Ends the process and waits until it is gone. Idempotent. */
  end(): Promise<void> {
    return endProcess(this.#child);
  }
}

function guestProgram(): string {
  const path = fileURLToPath(new URL("build/multifd-guest", import.meta.resolve("@multifd/kernel/package.json")));
  if (existsSync(path)) return path;
  throw new ConfigError("NOT_BUILT", `${path} is missing; run "npm run build" first`);
}

function guestArguments(options: GuestOptions): string[] {
  const words = ["--socket", options.socketPath, "--ram-bytes", String(options.ramBytes), "--exit-with-parent"];
  if (options.incoming) return [...words, "--incoming", "--private-run"];
  if (options.rate !== undefined) words.push("--rate", String(options.rate));
  if (options.workingSetBytes !== undefined) words.push("--working-set", String(options.workingSetBytes));
  return words;
}
