/** Guest keeper: the medium on which a saved guest is kept, whichever way it got there. */
import type { DestinationGuest } from "@multifd/engine";
import type { SavedMachine } from "./preflight.js";

/** Where a guest is kept. */
export type GuestKeeper = {
  readonly guest: DestinationGuest;
  /** A warning where that much RAM may not fit, else null. */
  room(ramBytes: number): Promise<string | null>;
  /** Reads what was kept back, as far as it can be checked. @throws {MigrationError} where it is not whole. */
  readBack(signal: AbortSignal): Promise<SavedMachine>;
  /** Removes what was kept. Never rejects. */
  discard(): Promise<void>;
};
