/**
 * Endpoint: one end of a measured migration, whatever program plays it.
 *
 * Every end is a process of its own, started before the clock runs. What it used
 * is read from outside, in /proc, the same way for all; how long it took and what
 * went over the wire its source says itself, from the command to the last
 * acknowledgement.
 *
 * A source runs here. A destination is asked for by its kind, for it may run on
 * another machine (`remote/`).
 */
import { formatAddress } from "@multifd/channel";
import type { Codec } from "./codecs.js";
import type { Usage } from "./process-meter.js";

export type Transport = "unix" | "tcp";

/** What a source sends, and how. */
export type SourceJob = {
  readonly codec: Codec;
  readonly channels: number;
  readonly imagePath: string;
  readonly ramBytes: number;
  /** To be called when the source could begin; it may when that has resolved. */
  readonly ready: () => Promise<void>;
};

export type DestinationJob = {
  readonly codec: Codec;
  readonly channels: number;
  readonly transport: Transport;
  /** For tcp: the address of this machine at which the source looks for it. */
  readonly host: string;
  readonly ramBytes: number;
  /** Where its RAM goes; does not exist yet. */
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
export type DestinationProgram = (job: DestinationJob) => Promise<Destination>;

/** Starts a source, lets it migrate to `address`, and ends it. */
export type SourceProgram = (job: SourceJob, address: string) => Promise<SourceFigures>;

/** RAM block that every variant moves. */
export const RAM_BLOCK = "pc.ram";

/** Nothing measured here takes longer; whatever does hangs. */
export const COMPLETION_TIMEOUT_MS = 600_000;

/** This machine, for a source on it. */
export const LOOPBACK = "127.0.0.1";

/** Where a destination listens. A tcp destination picks a free port and says which. */
export function listenAddress({ transport, dir, host }: DestinationJob): string {
  return transport === "unix" ? `unix:${dir}/migration.sock` : formatAddress({ kind: "tcp", host, port: 0 });
}
