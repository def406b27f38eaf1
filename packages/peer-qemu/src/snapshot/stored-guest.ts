/**
 * Stored guest: a snapshot as a source guest.
 *
 * Nobody writes it any more: one round moves it, and there is nothing to pause or to resume.
 */
import type { SourceGuest } from "@multifd/engine";
import type { Snapshot } from "./snapshot.js";

export function storedGuest({ ram }: Snapshot): SourceGuest {
  return {
    ram,
    tracker: null,
    pause: async () => {},
    resume: async () => {},
    devices: [],
  };
}
