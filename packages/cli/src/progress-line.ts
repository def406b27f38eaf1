/**
 * Progress line: one line that says where the migration stands.
 *
 * Pure: events in, text out; `EventOutput` draws it. The percentage is the part
 * of RAM that is the same at both ends, so it falls when a new round begins.
 */
import type { MigrationEvent, MigrationResult } from "@multifd/engine";
import { formatBytes, formatMs, formatRate } from "./quantities.js";

export class ProgressLine {
  #round = 0;
  #dirtyPages = 0;

  /** Takes one event in. @returns The line as it stands now, or null when there is nothing new to draw. */
  update(event: MigrationEvent): string | null {
    switch (event.event) {
      case "round":
        this.#round = event.round;
        this.#dirtyPages = event.dirtyPages;
        return null;
      case "progress": {
        const done = event.ramBytes === 0 ? 1 : Math.max(0, 1 - event.remainingBytes / event.ramBytes);
        const parts = [
          `${(Math.floor(done * 1000) / 10).toFixed(1).padStart(5)} %`,
          formatRate(event.bytesPerSecond),
          // A destination sees no rounds; it knows what of the first pass is still to come.
          this.#round > 0
            ? `round ${this.#round}, ${this.#dirtyPages} dirty pages`
            : `${formatBytes(event.remainingBytes)} left`,
        ];
        if (event.expectedDowntimeMs !== null) parts.push(`expected downtime ${formatMs(event.expectedDowntimeMs)}`);
        return parts.join(" | ");
      }
      case "listening":
      case "connected":
      case "switchover":
      case "completed":
      case "failed":
        return null;
    }
  }
}

/** A line of its own for events that a reader wants to keep; null for those that only move the progress line. */
export function milestone(event: MigrationEvent): string | null {
  switch (event.event) {
    case "listening":
      return `listening on ${event.address} for ${event.channels} channels`;
    case "connected":
      return `connected to ${event.peer} over ${event.channels} channels`;
    case "round":
      return `round ${event.round}: ${event.dirtyPages} dirty pages, ${formatBytes(event.dirtyBytes)}`;
    case "progress":
      return null;
    case "switchover":
      return `switchover in round ${event.round}: ${event.dirtyPages} dirty pages, expected downtime ${formatMs(event.expectedDowntimeMs)}`;
    case "completed":
      return summary(event);
    case "failed":
      return `failed: ${event.message} [${event.code}]`;
  }
}

function summary(result: MigrationResult): string {
  const parts = [
    `completed in ${formatMs(result.totalMs)}: ${formatBytes(result.ramBytes)} of RAM (${formatRate(ratePerSecond(result))})`,
    `${formatBytes(result.wireBytes)} on the wire`,
    `${result.normalPages} normal and ${result.zeroPages} zero pages in ${result.rounds} round${result.rounds === 1 ? "" : "s"}`,
    `CPU ${result.cpuSeconds.toFixed(2)} s`,
  ];
  if (result.downtimeMs !== null) parts.push(`downtime ${formatMs(result.downtimeMs)}`);
  if (!result.acknowledged) parts.push("not acknowledged: the peer keeps no return path, so look there");
  return parts.join(", ");
}

/** Guest RAM per second over the whole migration. */
function ratePerSecond(result: MigrationResult): number {
  return result.totalMs === 0 ? 0 : (result.ramBytes / result.totalMs) * 1000;
}
