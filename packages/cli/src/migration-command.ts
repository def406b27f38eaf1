/**
 * Migration command: the frame around every command that moves a guest.
 *
 * Shows the engine's events, turns signals into a cancellation, and makes sure
 * that the last thing said is `completed` or `failed`, once, with the exit code
 * that goes with it. The engine may announce its own end; ours counts, for a
 * command may still have to verify, or to close what it opened.
 */
import type { EventSink, MigrationEvent, MigrationResult } from "@multifd/engine";
import { MigrationError } from "@multifd/protocol";
import type { Command } from "commander";
import { Cancellation } from "./cancellation.js";
import { EventOutput, type OutputFlags } from "./event-output.js";
import type { CommandContext } from "./terminal.js";

export type MigrationWatch = {
  readonly onEvent: EventSink;
  readonly signal: AbortSignal;
  /** A line on stderr for what looks wrong and yet does not end the migration. */
  readonly warn: (text: string) => void;
  /** A line on stderr for what people want to know. */
  readonly note: (text: string) => void;
};

/** Adds the flags that `runMigration` reads. */
export function addOutputFlags(command: Command): Command {
  return command
    .option("--json", "print one JSON object per event on stdout; the last is completed or failed")
    .option("--verbose", "log every event on stderr");
}

/**
 * Runs one migration to its end and says how it went.
 *
 * @param describe  What people are told of the result on stdout, where one line on stderr is not enough.
 * @returns The result, or null after a failure; `context.exitCode` is set either way.
 */
export async function runMigration<Result extends MigrationResult>(
  context: CommandContext,
  flags: OutputFlags,
  migrate: (watch: MigrationWatch) => Promise<Result>,
  describe: ((result: Result) => string) | null = null,
): Promise<Result | null> {
  const output = new EventOutput(context.terminal, flags);
  const cancellation = new Cancellation();
  const onEvent: EventSink = (event) => {
    if (event.event !== "completed" && event.event !== "failed") output.show(event);
  };
  try {
    const result = await migrate({
      onEvent,
      signal: cancellation.signal,
      warn: (text) => output.say(`warning: ${text}`),
      note: (text) => output.say(text),
    });
    if (describe === null || flags.json === true) output.show(result);
    else context.terminal.out(describe(result));
    return result;
  } catch (error) {
    context.exitCode = 1;
    output.show(failure(error, cancellation.signal));
    if (!(error instanceof MigrationError) && !cancellation.signal.aborted) {
      output.say(`a defect of ours: ${error instanceof Error ? error.stack : String(error)}`);
    }
    return null;
  } finally {
    cancellation.end();
  }
}

function failure(error: unknown, signal: AbortSignal): Extract<MigrationEvent, { event: "failed" }> {
  if (error instanceof MigrationError) return { event: "failed", code: error.code, message: error.message };
  if (signal.aborted) return { event: "failed", code: "CANCELLED", message: (signal.reason as Error).message };
  return { event: "failed", code: "DEFECT", message: error instanceof Error ? error.message : String(error) };
}
