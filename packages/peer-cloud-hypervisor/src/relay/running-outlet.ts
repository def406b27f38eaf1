/**
 * Running outlet: an outlet around a migration that runs from `begin` on and asks for each step itself.
 *
 * The protocols differ in what their sources ask for, and when; what is given to them and what is
 * awaited of them is the same.
 */
import type { MigrationResult } from "@multifd/engine";
import type { HandOver } from "../source-job.js";
import { Awaited } from "./awaited.js";
import type { Outlet, PassingGuest } from "./outlet.js";

/** What the migration is given, in the order in which it asks. */
export type OutletSteps = {
  readonly guest: PassingGuest;
  readonly signal: AbortSignal;
  readonly state: Promise<Uint8Array>;
  /** To be called when the destination has loaded State. */
  readonly loaded: () => void;
  readonly how: Promise<HandOver>;
};

export type OutletTerms = {
  /** Whether the destination says that it has loaded State before it is told how the migration ends. */
  readonly saysLoaded: boolean;
  readonly run: (steps: OutletSteps) => Promise<MigrationResult>;
  /** Called when it fails, whatever the other end is doing then. */
  readonly onFail: (error: unknown) => void;
};

export class RunningOutlet implements Outlet {
  readonly #terms: OutletTerms;
  readonly #abort = new AbortController();
  readonly #state = new Awaited<Uint8Array>();
  readonly #loaded = new Awaited<void>();
  readonly #how = new Awaited<HandOver>();
  #guest: PassingGuest | null = null;
  #run: Promise<MigrationResult> | null = null;
  #failed: { readonly error: unknown } | null = null;

  constructor(terms: OutletTerms) {
    this.#terms = terms;
  }

  /** How it ended; null before it began. */
  get result(): Promise<MigrationResult> | null {
    return this.#run;
  }

  async begin(guest: PassingGuest): Promise<void> {
    this.#guest = guest;
    this.#run = this.#terms.run({
      guest,
      signal: this.#abort.signal,
      state: this.#state.promise,
      loaded: () => this.#loaded.resolve(),
      how: this.#how.promise,
    });
    this.#run.catch((error: unknown) => this.#fail(error));
    await guest.passing.started;
  }

  async load(state: Uint8Array): Promise<void> {
    this.#state.resolve(state);
    if (!this.#terms.saysLoaded) return this.#check();
    this.#guest!.passing.end();
    await this.#loaded.promise;
  }

  async commit(how: HandOver): Promise<void> {
    this.#how.resolve(how);
    this.#guest!.passing.end();
    await this.#run;
  }

  async cancel(): Promise<void> {
    this.#abort.abort();
    await this.#run?.catch(() => {});
  }

  #check(): void {
    if (this.#failed !== null) throw this.#failed.error;
  }

  #fail(error: unknown): void {
    this.#failed = { error };
    for (const awaited of [this.#state, this.#loaded, this.#how]) awaited.reject(error);
    this.#guest!.passing.fail(error);
    this.#terms.onFail(error);
  }
}
