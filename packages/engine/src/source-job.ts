/** Source job: what one migration out of here is to do, and what of it can be judged before anything starts. */
import { type Compression, ConfigError } from "@multifd/protocol";
import type { EventSink } from "./events.js";
import type { DevicePart, SourceGuest } from "./guest.js";
import type { SourcePeer } from "./peer.js";

export type SourceJob = {
  readonly guest: SourceGuest;
  readonly peer: SourcePeer;
  readonly onEvent: EventSink;
  readonly signal?: AbortSignal;
  readonly compression: Compression;
  /** For the method; ignored by `none`. */
  readonly level: number;
  /** What follows RAM on the main channel; null moves RAM and device-state packets only. */
  readonly devices: DevicePart | null;
  readonly downtimeLimitMs: number;
  /** Bytes per second on the channels, until a live guest is paused; 0 for no limit. */
  readonly maxBandwidth: number;
  /** Rounds while the guest runs. */
  readonly roundsMax: number;
  /** What to do when the guest has outrun the link for that long. */
  readonly atRoundLimit: "fail" | "switchover";
  /** Without a sign of life for this long the migration fails; 0 waits for ever. */
  readonly stallTimeoutMs: number;
};

/**
 * The page size that all of a guest's RAM blocks share.
 *
 * @throws {ConfigError} NO_RAM, PAGE_SIZE.
 */
export function sharedPageBytes({ ram }: SourceGuest): number {
  const [first] = ram;
  if (first === undefined) throw new ConfigError("NO_RAM", "there is no RAM block to send; name at least one");
  const odd = ram.find(({ block }) => block.pageBytes !== first.block.pageBytes);
  if (odd === undefined) return first.block.pageBytes;
  throw new ConfigError(
    "PAGE_SIZE",
    `RAM block "${odd.block.name}" has pages of ${odd.block.pageBytes} bytes, "${first.block.name}" of ${first.block.pageBytes}; a target has one page size`,
  );
}
