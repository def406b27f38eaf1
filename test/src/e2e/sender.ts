/**
 * Sender: `multifd send` in a process of its own, as an operator runs it.
 */
import { spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import type { MigrationEvent } from "@multifd/engine";

const MULTIFD = fileURLToPath(new URL("../../../packages/cli/dist/main.js", import.meta.url));

export type Sent = {
  readonly status: number;
  readonly events: readonly MigrationEvent[];
  /** `completed` or `failed`. */
  readonly last: Extract<MigrationEvent, { event: "completed" | "failed" }>;
  readonly stderr: string;
};

/**
 * Runs `multifd send --json` to its end.
 *
 * @param onEvent  Sees each event as it is told.
 * @throws {Error} if its last word is no end, with what it wrote to stderr.
 */
export async function runSender(
  flags: readonly string[],
  onEvent: (event: MigrationEvent) => void = () => {},
): Promise<Sent> {
  const child = spawn(process.execPath, [MULTIFD, "send", "--json", ...flags], { stdio: ["ignore", "pipe", "pipe"] });
  const events: MigrationEvent[] = [];
  let stderr = "";
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    stderr += text;
  });
  createInterface({ input: child.stdout }).on("line", (line) => {
    const event = JSON.parse(line) as MigrationEvent;
    events.push(event);
    onEvent(event);
  });
  const status = await new Promise<number>((resolve, reject) => {
    child.once("error", reject);
    child.once("close", (code) => resolve(code ?? -1));
  });
  const last = events.at(-1);
  if (last?.event === "completed" || last?.event === "failed") return { status, events, last, stderr };
  throw new Error(`multifd send ended with status ${status} and no last word; stderr: ${stderr}`);
}

/** Runs `multifd send` and has it succeed. */
export async function sendAll(flags: readonly string[]): Promise<Extract<MigrationEvent, { event: "completed" }>> {
  const { status, last } = await runSender(flags);
  if (last.event === "completed" && status === 0) return last;
  throw new Error(`multifd send ended with status ${status}: ${JSON.stringify(last)}`);
}
