/**
 * Muster: every thread of a pool has loaded what it runs.
 *
 * A thread that is ended while it still loads its modules takes the whole process
 * with it (Node 20 aborts inside its module loader). So each thread's first task is
 * to report here and to wait for the others, which also proves that there is a
 * thread for every channel; only after that may the pool be ended.
 */
import type { ChannelResult, MusterTask } from "./messages.js";

/** Reports this thread, and blocks until all have been. */
export function attendMuster({ present, threads }: MusterTask): ChannelResult {
  const words = new Int32Array(present);
  Atomics.add(words, 0, 1);
  Atomics.notify(words, 0);
  for (;;) {
    const count = Atomics.load(words, 0);
    if (count >= threads) return { ok: true };
    Atomics.wait(words, 0, count);
  }
}

/** Lets all go that wait, because one will never come. Coordinator only. */
export function dismissMuster({ present, threads }: MusterTask): void {
  const words = new Int32Array(present);
  Atomics.add(words, 0, threads);
  Atomics.notify(words, 0);
}
