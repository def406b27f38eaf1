/**
 * Live report: downtime and total time of a guest that keeps writing, against how fast it writes.
 */
import type { Spread } from "../statistics.js";
import type { Role } from "../variants.js";
import type { Timeline } from "./timeline.js";

/** What all live migrations of a run have in common. */
export type LiveTerms = {
  readonly ramBytes: number;
  /** RAM that the guest writes over and over. */
  readonly workingSetBytes: number;
  readonly channels: number;
  readonly downtimeLimitMs: number;
  /** Bytes a second that the wire is held to while the guest runs; 0 for no limit. */
  readonly maxBandwidth: number;
  /** A migration that has not ended by then does not converge. */
  readonly limitMs: number;
};

export type LivePoint = {
  readonly variant: string;
  readonly role: Role;
  /** Bytes of RAM dirtied a second: asked for, and the median of what the guest got done until it was paused. */
  readonly askedRate: number;
  readonly reachedRate: number;
  /** Null where it did not converge, in one round at least. */
  readonly downtimeMs: Spread | null;
  readonly totalMs: Spread | null;
  readonly rounds: number | null;
};

export type LiveReport = LiveTerms & {
  /** Counted migrations of each point. */
  readonly runs: number;
  /** By variant in the order of rates; each variant ends where it does not converge, or where its guest writes no faster. */
  readonly points: readonly LivePoint[];
  /** One migration of ours. */
  readonly timeline: Timeline;
};
