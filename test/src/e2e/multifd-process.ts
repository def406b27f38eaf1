/**
 * The multifd command in a process of its own, as an operator runs it: its events, its status.
 *
 * Ends with this process at the latest.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import type { MigrationEvent } from "@multifd/engine";

const MULTIFD = fileURLToPath(new URL("../../../packages/cli/dist/main.js", import.meta.url));
const running = new Set<ChildProcess>();
process.on("exit", () => {
  for (const child of running) child.kill("SIGKILL");
});

export type MultifdEnd = {
  readonly status: number;
  /** `completed` or `failed`. */
  readonly last: Extract<MigrationEvent, { event: "completed" | "failed" }>;
};

export type MultifdProcess = {
  /** Where it listens, the port known. Rejects if it ends without. */
  readonly address: Promise<string>;
  /** Rejects if its last word is no end. */
  readonly ended: Promise<MultifdEnd>;
  /** Resolves at the first event of that name, or when it ends. */
  readonly event: (name: MigrationEvent["event"]) => Promise<void>;
  readonly child: ChildProcess;
};

/** Starts `multifd … --json`. */
export function startMultifd(words: readonly string[]): MultifdProcess {
  const child = spawn(process.execPath, [MULTIFD, ...words, "--json"], { stdio: ["ignore", "pipe", "pipe"] });
  running.add(child);
  const events: MigrationEvent[] = [];
  const waiting: (() => void)[] = [];
  let stderr = "";
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    stderr += text;
  });
  createInterface({ input: child.stdout }).on("line", (line) => {
    events.push(JSON.parse(line) as MigrationEvent);
    for (const look of waiting) look();
  });
  const ended = new Promise<MultifdEnd>((resolve, reject) => {
    child.once("error", reject);
    child.once("close", (status, signal) => {
      running.delete(child);
      const last = events.at(-1);
      if (last?.event === "completed" || last?.event === "failed") resolve({ status: status ?? -1, last });
      else reject(new Error(`multifd ${words[0]} ended (${status ?? signal}) without a last word; stderr: ${stderr}`));
      for (const look of waiting) look();
    });
  });
  ended.catch(() => {}); // told by whoever awaits it
  const find = (name: string) => events.find(({ event }) => event === name);
  const event = (name: MigrationEvent["event"]) =>
    new Promise<void>((resolve) => {
      const look = () => {
        if (find(name) || child.exitCode !== null) resolve();
      };
      waiting.push(look);
      look();
    });
  const address = event("listening").then(async () => {
    const listening = find("listening");
    if (listening?.event === "listening") return listening.address;
    throw new Error(`multifd ${words[0]} never listened: ${JSON.stringify((await ended).last)}`);
  });
  address.catch(() => {});
  return { address, ended, event, child };
}
