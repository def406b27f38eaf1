/**
 * Terminal: where a command's text goes.
 *
 * Results and JSON lines go to `out`, people's text to `err`. Handed to every
 * command rather than reached for, so tests read what a command says.
 */
export type Terminal = {
  readonly out: (text: string) => void;
  readonly err: (text: string) => void;
  /** Whether `err` is a screen on which a line may be drawn again. */
  readonly isInteractive: boolean;
  /** Width of that screen, as it is now. */
  readonly columns: () => number;
};

/** What a command leaves behind beside its text. Exit codes: 0 done, 1 failed, 2 usage. */
export type CommandContext = {
  readonly terminal: Terminal;
  exitCode: 0 | 1 | 2;
};

/** The process's own streams. Writes to files, pipes and terminals are synchronous on Linux: a line said is out. */
export function processTerminal(): Terminal {
  // Whoever watched may leave (`| head`); the migration goes on without them.
  for (const stream of [process.stdout, process.stderr]) stream.on("error", () => {});
  return {
    out: (text) => void process.stdout.write(text),
    err: (text) => void process.stderr.write(text),
    isInteractive: process.stderr.isTTY === true,
    columns: () => process.stderr.columns || 80, // some terminals say 0
  };
}
