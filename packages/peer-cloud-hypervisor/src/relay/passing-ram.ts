/**
 * Passing RAM: what has arrived of a guest's RAM and is still to be sent on.
 *
 * Between the end of a relay that takes RAM in and the one that sends it on. The first marks what is in its
 * place and may wait until that has left; the second takes all marks at a time, as a round.
 *
 *   marked ── harvest ──▶ under way ── sent ──▶ left
 *
 * Runs on the coordinator thread, like whoever uses it; owns the marks, not the bytes.
 */
import type { RamFeed } from "@multifd/engine";
import { DirtyBitmap, type DirtyTracker, type RamBlock } from "@multifd/memory";
import { Awaited } from "./awaited.js";

type Waiter = { readonly resolve: () => void; readonly reject: (error: unknown) => void };

export class PassingRam implements DirtyTracker, RamFeed {
  readonly name = "passing RAM";
  readonly #blocks: readonly RamBlock[];
  readonly #marks: readonly DirtyBitmap[];
  readonly #started = new Awaited<void>();
  #marked = false;
  #isUnderWay = false;
  /** For what is marked. */
  #waiting: Waiter[] = [];
  /** For what is under way. */
  #leaving: Waiter[] = [];
  #wake: (() => void) | null = null;
  #hasEnded = false;
  #failed: { readonly error: unknown } | null = null;
  signs = 0;

  constructor(blocks: readonly RamBlock[]) {
    this.#blocks = blocks;
    this.#marks = blocks.map(({ pageCount }) => new DirtyBitmap(pageCount));
  }

  // ---- for the end that takes RAM in ----

  /** Resolves when the end that sends is ready for RAM. Rejects with what `fail` was told. */
  get started(): Promise<void> {
    return this.#started.promise;
  }

  /** Bytes of a block are in their place. */
  mark(block: number, offsetBytes: number, lengthBytes: number): void {
    const { pageBytes } = this.#blocks[block]!;
    const end = Math.ceil((offsetBytes + lengthBytes) / pageBytes);
    for (let page = Math.floor(offsetBytes / pageBytes); page < end; page++) this.#marks[block]!.set(page);
    this.#marked = true;
    this.#ring();
  }

  /** The same for whole pages. */
  markPages(block: number, { words }: DirtyBitmap): void {
    const marks = this.#marks[block]!.words;
    for (let i = 0; i < words.length; i++) {
      if (words[i] === 0) continue;
      marks[i]! |= words[i]!;
      this.#marked = true;
    }
    this.#ring();
  }

  /** Resolves when everything marked so far has left. @throws what `fail` was told. */
  left(): Promise<void> {
    if (this.#failed !== null) return Promise.reject(this.#failed.error);
    const waiters = this.#marked ? this.#waiting : this.#isUnderWay ? this.#leaving : null;
    if (waiters === null) return Promise.resolve();
    return new Promise((resolve, reject) => waiters.push({ resolve, reject }));
  }

  /** Resolves when everything marked before the latest harvest has left: so much may be marked ahead. */
  gone(): Promise<void> {
    if (this.#failed !== null) return Promise.reject(this.#failed.error);
    if (!this.#isUnderWay) return Promise.resolve();
    return new Promise((resolve, reject) => this.#leaving.push({ resolve, reject }));
  }

  /** Nothing more will be marked. */
  end(): void {
    this.#hasEnded = true;
    this.#ring();
  }

  /** Whoever brings the RAM is alive. */
  live(): void {
    this.signs++;
  }

  // ---- for the end that sends it on ----

  async start(): Promise<void> {
    this.#started.resolve();
  }

  async more(): Promise<boolean> {
    while (!this.#marked && !this.#hasEnded)
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    return this.#marked;
  }

  harvest(block: number, dirty: DirtyBitmap): void {
    if (this.#marked) {
      // The first block of a round: the others follow before anything else can happen.
      this.#marked = false;
      this.#isUnderWay = true;
      this.#leaving.push(...this.#waiting.splice(0));
    }
    const { words } = this.#marks[block]!;
    for (let i = 0; i < words.length; i++) if (words[i] !== 0) dirty.words[i]! |= words[i]!;
    words.fill(0);
  }

  sent(): void {
    this.#isUnderWay = false;
    for (const { resolve } of this.#leaving.splice(0)) resolve();
  }

  async stop(): Promise<void> {}

  /** Nothing will leave any more. */
  fail(error: unknown): void {
    this.#failed ??= { error };
    this.#started.reject(error);
    for (const { reject } of [...this.#waiting.splice(0), ...this.#leaving.splice(0)]) reject(error);
    this.end();
  }

  #ring(): void {
    this.#wake?.();
    this.#wake = null;
  }
}
