/**
 * Endpoint: one end of a measured migration, whatever program plays it.
 *
 * Every end is a process of its own, started before the clock runs. What it used
 * is read from outside, in /proc, the same way for all; how long it took and what
 * went over the wire its source says itself, from the command to the last
 * acknowledgement.
 */
import type { Usage } from "./process-meter.js";

export type Method = "none" | "zlib" | "zstd";
export type Transport = "unix" | "tcp";

/** What all variants of a run have in common. */
export type Job = {
  readonly method: Method;
  readonly channels: number;
  readonly transport: Transport;
  /** The image that every source sends. */
  readonly imagePath: string;
  readonly ramBytes: number;
  /** Where the destination's RAM goes; does not exist yet. */
  readonly receivedPath: string;
  /** For sockets and the like; its name is short. */
  readonly dir: string;
};

export type SourceFigures = Usage & {
  readonly wallMs: number;
  readonly wireBytes: number;
};

/** A destination that listens. */
export type Destination = {
  /** As a source dials it. */
  readonly address: string;
  /** Resolves once everything is in. */
  readonly completed: () => Promise<Usage>;
  /** Ends the process; may be called at any time, and again. */
  readonly stop: () => Promise<void>;
};

/** Starts a destination; it costs nothing until a source comes. */
export type DestinationProgram = (job: Job) => Promise<Destination>;

/** Starts a source, lets it migrate to `address`, and ends it. */
export type SourceProgram = (job: Job, address: string) => Promise<SourceFigures>;

/** RAM block that every variant moves. */
export const RAM_BLOCK = "pc.ram";

/** Nothing measured here takes longer; whatever does hangs. */
export const COMPLETION_TIMEOUT_MS = 600_000;

/** Where a destination listens. A tcp destination picks a free port and says which. */
export function listenAddress(job: Job): string {
  return job.transport === "unix" ? `unix:${job.dir}/migration.sock` : "tcp:127.0.0.1:0";
}
