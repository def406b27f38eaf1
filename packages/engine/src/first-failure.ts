/**
 * First failure: the one error a migration ends with.
 *
 * When a peer dies every channel breaks at once, and so does the main channel;
 * what is told is what was seen first, and the rest is its echo. Whoever waits
 * does so through `race` or looks in with `check` after each wake-up, so an error
 * raised anywhere ends every wait.
 *
 * Coordinator thread only.
 */
import { ChannelError } from "@multifd/protocol";

export class FirstFailure {
  #error: unknown = null;
  #failed = false;
  readonly #waiters = new Set<(error: unknown) => void>();
  readonly #onFail: (error: unknown) => void;

  /** @param onFail  Called once: wakes whoever waits for something other than this. */
  constructor(onFail: (error: unknown) => void) {
    this.#onFail = onFail;
  }

  get failed(): boolean {
    return this.#failed;
  }

  /** Only the first call counts. */
  fail(error: unknown): void {
    if (this.#failed) return;
    this.#failed = true;
    this.#error = error;
    for (const reject of this.#waiters) reject(error);
    this.#waiters.clear();
    this.#onFail(error);
  }

  /** @throws what failed first. */
  check(): void {
    if (this.#failed) throw this.#error;
  }

  /** Waits for `promise`, or throws what fails meanwhile. */
  race<T>(promise: Promise<T>): Promise<T> {
    if (this.#failed) {
      promise.catch(() => {}); // its own end is an echo
      return Promise.reject(this.#error);
    }
    return new Promise((resolve, reject) => {
      this.#waiters.add(reject);
      promise.then(resolve, reject).finally(() => this.#waiters.delete(reject));
    });
  }

  /**
   * Fails when `signal` is aborted, unless it is too late to turn back by then.
   *
   * @returns Ends the watch: one signal may outlive many migrations.
   */
  watch(signal: AbortSignal | undefined, tooLate: () => boolean): () => void {
    const cancel = () => {
      if (!tooLate()) this.fail(new ChannelError("CANCELLED", "the migration was cancelled on this side"));
    };
    if (signal?.aborted) cancel();
    else signal?.addEventListener("abort", cancel, { once: true });
    return () => signal?.removeEventListener("abort", cancel);
  }
}
