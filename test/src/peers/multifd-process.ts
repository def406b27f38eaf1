/**
 * multifd process: one command of ours, run as people run it, read by its JSON lines.
 *
 * Owns the process; it ends with this one at the latest.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

export type CommandEvent = {
  readonly event: string;
  readonly code?: string;
  readonly message?: string;
  readonly address?: string;
  readonly wireBytes?: number;
  readonly normalPages?: number;
  readonly dirtyPages?: number;
  readonly round?: number;
  readonly downtimeMs?: number | null;
};

export type CommandOutcome = {
  readonly status: number | null;
  readonly events: readonly CommandEvent[];
  /** The last event: `completed` or `failed`. */
  readonly last: CommandEvent;
  readonly stderr: string;
};

const MULTIFD = fileURLToPath(new URL("../../../packages/cli/dist/main.js", import.meta.url));

const running = new Set<ChildProcess>();
process.on("exit", () => {
  for (const child of running) child.kill("SIGKILL");
});

export class MultifdProcess {
  /** Settles when the command has ended, however it did. */
  readonly outcome: Promise<CommandOutcome>;
  readonly #child: ChildProcess;
  readonly #events: CommandEvent[] = [];
  #wake: () => void = () => {};
  #ended = false;

  /** Starts `multifd ARGS --json`. */
  constructor(...args: readonly string[]) {
    const flags = args.includes("--") ? args.indexOf("--") : args.length; // behind -- it would be another program's
    const words = [MULTIFD, ...args.slice(0, flags), "--json", ...args.slice(flags)];
    const child = spawn(process.execPath, words, { stdio: ["ignore", "pipe", "pipe"] });
    this.#child = child;
    running.add(child);
    let stderr = "";
    child.stderr.setEncoding("utf8").on("data", (text: string) => {
      stderr += text;
    });
    createInterface({ input: child.stdout }).on("line", (line) => {
      this.#events.push(JSON.parse(line) as CommandEvent);
      this.#wake();
    });
    this.outcome = new Promise((resolve) => {
      child.once("close", (status) => {
        running.delete(child);
        this.#ended = true;
        this.#wake();
        const last = this.#events.at(-1) ?? { event: "nothing" };
        resolve({ status, events: this.#events, last, stderr });
      });
    });
  }

  /** Runs a command to its end. */
  static run(...args: readonly string[]): Promise<CommandOutcome> {
    return new MultifdProcess(...args).outcome;
  }

  /** Waits for an event. @throws {Error} when the command ends without it. */
  async waitFor(accepts: (event: CommandEvent) => boolean): Promise<CommandEvent> {
    for (;;) {
      const found = this.#events.find(accepts);
      if (found) return found;
      if (this.#ended) throw new Error(`it ended without that event; it said ${JSON.stringify(this.#events)}`);
      await new Promise<void>((wake) => {
        this.#wake = wake;
      });
    }
  }

  get pid(): number {
    return this.#child.pid ?? -1;
  }

  signal(name: NodeJS.Signals): void {
    this.#child.kill(name);
  }
}
