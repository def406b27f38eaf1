/**
 * Sync pairing: which record of the main channel each SYNC of the channels belongs to.
 *
 * It is not signalled: a source that syncs per round (machine types from 8.1 on)
 * shows a FLUSH record in the very first RAM section; an older one does not, and
 * pairs each section's end with a SYNC instead.
 * Source: QEMU 10.0, migration/ram.c, ram_load_precopy().
 */
import type { MainEvent } from "@multifd/protocol";

export class SyncPairing {
  /** Null until the set-up section has shown it. */
  #syncPer: "round" | "section" | null = null;

  /** Whether this event's record, the last 8 bytes read, pairs with a SYNC of every channel. Asked once per event, in order. */
  pairs(event: Extract<MainEvent, { kind: "flush" | "section-end" }>): boolean {
    if (event.kind === "flush") {
      this.#syncPer ??= "round";
      return true;
    }
    if (event.phase === "setup") this.#syncPer ??= "section";
    return this.#syncPer === "section";
  }
}
