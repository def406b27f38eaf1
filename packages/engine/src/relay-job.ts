/** Relay job: what one migration that passes through here is to do, and what is told of it. */
import type { Compression } from "@multifd/protocol";
import type { EventSink, MigrationResult } from "./events.js";
import type { RelayPeer } from "./relay-peer.js";

export type RelayJob = {
  readonly peer: RelayPeer;
  readonly onEvent: EventSink;
  readonly signal?: AbortSignal;
  /** As the source was told; packets that disagree are refused. */
  readonly compression: Compression;
  /** As the destination was told. */
  readonly toCompression: Compression;
  /** For that method; ignored by `none`. */
  readonly toLevel: number;
  /** Without a sign of life for this long, once the source is there, the migration fails; 0 waits for ever. */
  readonly stallTimeoutMs: number;
};

/** The counters are those of the outgoing side. */
export type RelayResult = MigrationResult & {
  /** Bytes of the source's channels and main channel together. */
  readonly wireBytesIn: number;
};
