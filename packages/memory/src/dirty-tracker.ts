/**
 * Dirty tracker: who tells which pages the guest has written.
 *
 * The contract that keeps a migration right: a page written after `start` and
 * before a harvest is reported by that harvest or was reported by an earlier
 * one; the report comes before the page is read for sending. Reporting a page
 * that was not written costs time, never correctness.
 *
 * Declared here, on the lowest floor; the engine and the peers bring trackers.
 */
import type { DirtyBitmap } from "./dirty-bitmap.js";
import type { RamBlock } from "./ram-block.js";

export interface DirtyTracker {
  /** For logs and errors: `userfaultfd`, `bitmap`, `vhost-user`. */
  readonly name: string;
  /** From the moment this resolves every write is seen. `blocks` are addressed by their index from here on. */
  start(blocks: readonly RamBlock[]): Promise<void>;
  /** ORs the pages written since the last harvest into `dirty`, and forgets them; atomic towards a running guest. */
  harvest(block: number, dirty: DirtyBitmap): void;
  /** Ends tracking; the guest goes on without its cost. */
  stop(): Promise<void>;
}
