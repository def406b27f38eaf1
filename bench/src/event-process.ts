/**
 * Event process: a child that says how it goes, one JSON object per line.
 *
 * Every event is kept with the moment at which it was heard, so none is missed by
 * whoever begins to wait later. The child is handed a pipe as standard input and,
 * once it is done, stays until that pipe is closed (`hold.ts`), so that it can
 * still be looked at in /proc.
 */
import { type ChildProcessByStdio, spawn } from "node:child_process";
import { createInterface } from "node:readline";
import type { Readable, Writable } from "node:stream";

/** What of an event is read here; nothing of it is believed yet. */
export type ProcessEvent = {
  readonly event: string;
  /** When it was heard, by performance.now(). */
  readonly heardMs: number;
  readonly address?: unknown;
  readonly message?: unknown;
  readonly totalMs?: unknown;
  readonly downtimeMs?: unknown;
  readonly wireBytes?: unknown;
  readonly rounds?: unknown;
  readonly round?: unknown;
  readonly dirtyBytes?: unknown;
};

const running = new Set<EventProcess>();
process.on("exit", () => {
  for (const child of running) child.kill();
});

const STDERR_CHARACTERS_MAX = 4096;
const EVENTS_MAX = 100_000;

export class EventProcess {
  readonly #child: ChildProcessByStdio<Writable, Readable, Readable>;
  readonly #name: string;
  readonly #events: ProcessEvent[] = [];
  readonly #ended: Promise<void>;
  #wake: () => void = () => {};
  #stderr = "";
  #end: string | null = null;

  constructor(name: string, command: string, args: readonly string[]) {
    this.#name = name;
    this.#child = spawn(command, args, { stdio: ["pipe", "pipe", "pipe"] });
    running.add(this);
    this.#child.stdin.on("error", () => {}); // it may be gone before we close the pipe
    this.#child.stderr.setEncoding("utf8").on("data", (text: string) => {
      this.#stderr = (this.#stderr + text).slice(-STDERR_CHARACTERS_MAX);
    });
    createInterface({ input: this.#child.stdout }).on("line", (line) => this.#hear(line));
    this.#ended = new Promise((resolve) => {
      const end = (how: string) => {
        this.#end ??= how;
        running.delete(this);
        this.#wake();
        resolve();
      };
      this.#child.once("error", (error) => end(`did not start: ${error.message}`));
      this.#child.once("close", (code, signal) => end(signal ? `ended by ${signal}` : `ended with status ${code}`));
    });
  }

  get pid(): number {
    return this.#child.pid ?? -1;
  }

  /** All that it has said, in order. */
  get events(): readonly ProcessEvent[] {
    return this.#events;
  }

  /**
   * Resolves to the first event of that name, at once where it was heard already.
   *
   * @throws {Error} if the process says that it failed, ends without the event, or takes longer than `timeoutMs`.
   */
  async expect(event: string, timeoutMs: number): Promise<ProcessEvent> {
    const timer = setTimeout(() => {
      this.#end ??= `said no "${event}" within ${timeoutMs} ms`;
      this.#wake();
    }, timeoutMs);
    try {
      for (;;) {
        const found = this.#find(event);
        if (found) return found;
        const failed = this.#find("failed");
        if (failed) throw new Error(`${this.#name} failed: ${String(failed.message)}`);
        if (this.#end !== null) throw new Error(`${this.#name} ${this.#end}; stderr: ${this.#stderr || "nothing"}`);
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
      }
    } finally {
      clearTimeout(timer);
    }
  }

  /** Lets a process begin that stands by (`stand-by.ts`). */
  begin(): void {
    this.#child.stdin.write("begin\n");
  }

  /** Lets a process that is done end by itself, and waits for it. */
  async release(): Promise<void> {
    this.#child.stdin.end();
    await this.#ended;
  }

  /** Ends it at once. */
  async stop(): Promise<void> {
    this.kill();
    await this.#ended;
  }

  kill(): void {
    this.#child.kill("SIGKILL");
  }

  #hear(line: string): void {
    if (this.#events.length === EVENTS_MAX) return;
    try {
      this.#events.push({ ...(JSON.parse(line) as { event: string }), heardMs: performance.now() });
    } catch {
      this.#end ??= `said what is no JSON: ${line.slice(0, 200)}`;
    }
    this.#wake();
  }

  #find(name: string): ProcessEvent | undefined {
    return this.#events.find(({ event }) => event === name);
  }
}
