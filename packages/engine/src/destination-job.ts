/** Destination job: what one migration into here is to do. */
import type { Compression } from "@multifd/protocol";
import type { EventSink } from "./events.js";
import type { DestinationGuest } from "./guest.js";
import type { DestinationPeer } from "./peer.js";

export type DestinationJob = {
  readonly guest: DestinationGuest;
  readonly peer: DestinationPeer;
  readonly onEvent: EventSink;
  readonly signal?: AbortSignal;
  /** As the source was told; packets that disagree are refused. */
  readonly compression: Compression;
  /** Without a sign of life for this long, once connected, the migration fails; 0 waits for ever. */
  readonly stallTimeoutMs: number;
};
