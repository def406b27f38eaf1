/**
 * Event output: what a migration tells, as JSON lines or for people.
 *
 * With `--json` every event is one line on stdout and the last one is
 * `completed` or `failed`. Otherwise milestones are lines on stderr, and on a
 * terminal progress is one line below them, drawn again in place.
 * With `--verbose` every event goes to the log on stderr as well.
 */
import type { MigrationEvent } from "@multifd/engine";
import { type Logger, pino } from "pino";
import { milestone, ProgressLine } from "./progress-line.js";
import type { Terminal } from "./terminal.js";

export type OutputFlags = { readonly json?: boolean; readonly verbose?: boolean };

/** Several draws a second are enough for an eye. */
const REDRAW_MS = 100;
const CLEAR_LINE = "\r\x1b[2K";

export class EventOutput {
  readonly #terminal: Terminal;
  readonly #json: boolean;
  readonly #log: Logger;
  readonly #line = new ProgressLine();
  #isDrawn = false;
  #drawnAtMs = Number.NEGATIVE_INFINITY;

  constructor(terminal: Terminal, flags: OutputFlags) {
    this.#terminal = terminal;
    this.#json = flags.json === true;
    this.#log = pino({ level: flags.verbose === true ? "debug" : "silent", base: null }, { write: terminal.err });
  }

  /** Takes one event; extra fields of a `completed` are passed on in JSON. Never throws. */
  readonly show = (event: MigrationEvent): void => {
    this.#log.debug(event, event.event);
    if (this.#json) {
      this.#terminal.out(`${JSON.stringify(event)}\n`);
      return;
    }
    const line = this.#line.update(event);
    if (line !== null) this.#draw(line);
    const kept = milestone(event);
    // On a terminal the rounds are on the progress line already.
    if (kept !== null && !(this.#terminal.isInteractive && event.event === "round")) this.say(kept);
  };

  /** A line for people, on stderr. */
  say(text: string): void {
    this.#erase();
    this.#terminal.err(`${text}\n`);
  }

  #draw(line: string): void {
    const now = performance.now();
    if (!this.#terminal.isInteractive || now - this.#drawnAtMs < REDRAW_MS) return;
    this.#drawnAtMs = now;
    this.#terminal.err(`${CLEAR_LINE}${line.slice(0, Math.max(0, this.#terminal.columns() - 1))}`);
    this.#isDrawn = true;
  }

  #erase(): void {
    if (this.#isDrawn) this.#terminal.err(CLEAR_LINE);
    this.#isDrawn = false;
  }
}
