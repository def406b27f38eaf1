/**
 * Progress meter: says four times a second how far the migration is.
 *
 * The rate is that of the last second or so, over guest RAM covered, zero pages
 * included: it is what an operator divides the remainder by.
 */
import type { EventSink, MigrationTotals } from "./events.js";

const PERIOD_MS = 250;
/** Weight of the newest period in the smoothed rate. */
const SMOOTHING = 0.4;

export class ProgressMeter {
  readonly #onEvent: EventSink;
  readonly #totals: () => MigrationTotals;
  readonly #pageBytes: number;
  #timer: NodeJS.Timeout | null = null;
  #startedMs = 0;
  #lastMs = 0;
  #lastPages = 0;
  #bytesPerSecond = 0;
  #roundEndPages = 0;
  #expectedDowntimeMs: number | null = null;

  constructor(onEvent: EventSink, totals: () => MigrationTotals, pageBytes: number) {
    this.#onEvent = onEvent;
    this.#totals = totals;
    this.#pageBytes = pageBytes;
  }

  start(): void {
    this.#startedMs = this.#lastMs = performance.now();
    this.#timer = setInterval(() => this.#tell(), PERIOD_MS);
  }

  /** A round of that many pages begins now. */
  round(dirtyPages: number): void {
    const { normalPages, zeroPages } = this.#totals();
    this.#roundEndPages = normalPages + zeroPages + dirtyPages;
  }

  expect(downtimeMs: number): void {
    this.#expectedDowntimeMs = Number.isFinite(downtimeMs) ? Math.round(downtimeMs) : null;
  }

  stop(): void {
    if (this.#timer !== null) clearInterval(this.#timer);
  }

  #tell(): void {
    const totals = this.#totals();
    const pages = totals.normalPages + totals.zeroPages;
    const now = performance.now();
    const rate = ((pages - this.#lastPages) * this.#pageBytes * 1000) / Math.max(1, now - this.#lastMs);
    this.#bytesPerSecond += (this.#bytesPerSecond === 0 ? 1 : SMOOTHING) * (rate - this.#bytesPerSecond);
    this.#lastMs = now;
    this.#lastPages = pages;
    this.#onEvent({
      event: "progress",
      ...totals,
      elapsedMs: Math.round(now - this.#startedMs),
      remainingBytes: Math.max(0, this.#roundEndPages - pages) * this.#pageBytes,
      bytesPerSecond: Math.round(this.#bytesPerSecond),
      expectedDowntimeMs: this.#expectedDowntimeMs,
    });
  }
}
