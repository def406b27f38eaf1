/**
 * Coordinator report: what planning a round costs, however much RAM there is.
 */
import type { Spread } from "../statistics.js";

/** How much of RAM is dirty when a round begins. */
export type Density = "every page" | "1 page in 100" | "no page";

export type PlannedRound = {
  readonly density: Density;
  readonly pages: number;
  readonly packets: number;
  /** Taking the dirty bitmap over from the guest. */
  readonly harvestMs: Spread;
  /** Splitting it into packets and publishing them, to threads that only claim them. */
  readonly publishMs: Spread;
};

export type CoordinatorPoint = {
  readonly ramBytes: number;
  readonly rounds: readonly PlannedRound[];
  /** What the process has grown by, the guest's own bitmap and the ring included. */
  readonly memoryBytes: number;
};

/** PAGEMAP_SCAN over a real guest's RAM. */
export type HarvestPoint = {
  readonly ramBytes: number;
  readonly everyPageMs: number;
  readonly noPageMs: Spread;
};

export type CoordinatorReport = {
  /** Without RAM behind them. */
  readonly points: readonly CoordinatorPoint[];
  readonly harvests: readonly HarvestPoint[];
};
