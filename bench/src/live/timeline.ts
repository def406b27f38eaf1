/**
 * Timeline: one live migration as it went, out of what its source told.
 *
 * Times count from the moment the channels were connected.
 */
import type { ProcessEvent } from "../event-process.js";

export type TimelineRound = {
  readonly round: number;
  readonly fromMs: number;
  readonly toMs: number;
  /** Guest RAM that was dirty when it began. */
  readonly dirtyBytes: number;
};

export type Timeline = {
  readonly askedRate: number;
  /** What the wire was held to, for the rounds to be long enough to be seen; 0 for no limit. */
  readonly maxBandwidth: number;
  readonly rounds: readonly TimelineRound[];
  /** Bytes on the wire by then. */
  readonly wire: readonly { readonly atMs: number; readonly bytes: number }[];
  /** The guest stands still from the first to the second. */
  readonly pausedMs: number;
  readonly completedMs: number;
};

/** @throws {Error} where the migration did not complete, or never switched over. */
export function timelineOf(
  events: readonly ProcessEvent[],
  terms: Pick<Timeline, "askedRate" | "maxBandwidth">,
): Timeline {
  const startMs = momentOf(events, "connected");
  const completedMs = momentOf(events, "completed") - startMs;
  const pausedMs = momentOf(events, "switchover") - startMs;
  const begun = events.filter(({ event }) => event === "round");
  const rounds = begun.map((event, index): TimelineRound => {
    const next = begun[index + 1];
    return {
      round: Number(event.round),
      fromMs: event.heardMs - startMs,
      toMs: next ? next.heardMs - startMs : completedMs,
      dirtyBytes: Number(event.dirtyBytes),
    };
  });
  const wire = events
    .filter(({ event }) => event === "progress" || event === "completed")
    .map((event) => ({ atMs: event.heardMs - startMs, bytes: Number(event.wireBytes) }));
  return { ...terms, rounds, wire: [{ atMs: 0, bytes: 0 }, ...wire], pausedMs, completedMs };
}

function momentOf(events: readonly ProcessEvent[], name: string): number {
  const found = events.find(({ event }) => event === name);
  if (found) return found.heardMs;
  throw new Error(
    `a migration without "${name}" has no timeline; it said ${events.map(({ event }) => event).join(", ")}`,
  );
}
