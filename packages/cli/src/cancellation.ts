/**
 * Cancellation: SIGINT and SIGTERM end a migration, not the process.
 *
 * The first signal aborts; the engine then resumes the guest at the source,
 * wakes its workers and returns, and the process ends by itself. A second one
 * finds the default action again and kills, for an operator who cannot wait.
 */
const SIGNALS = ["SIGINT", "SIGTERM"] as const;

export class Cancellation {
  readonly #controller = new AbortController();
  readonly #abort = (name: NodeJS.Signals): void => {
    this.end();
    this.#controller.abort(new Error(`cancelled by ${name}`));
  };

  constructor() {
    for (const name of SIGNALS) process.on(name, this.#abort);
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /** Gives the signals back to their default action. */
  end(): void {
    for (const name of SIGNALS) process.off(name, this.#abort);
  }
}
