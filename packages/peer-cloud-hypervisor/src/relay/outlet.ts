/**
 * Outlet: the end of a relay that sends a guest on, as the end that takes it in sees it.
 *
 * One step of the handover after the other, each settled by what the destination says to it. So the
 * source is answered with the destination's own word, and the guest is given up only when it has it.
 */
import type { RamSource } from "@multifd/engine";
import type { MemoryMap } from "../memory-map.js";
import type { HandOver } from "../source-job.js";
import type { PassingRam } from "./passing-ram.js";

/** A guest on its way. */
export type PassingGuest = {
  /** Config's payload, to the byte. */
  readonly config: Uint8Array;
  readonly map: MemoryMap;
  /** As the map's blocks; the files are the other end's. */
  readonly ram: readonly RamSource[];
  readonly passing: PassingRam;
};

export interface Outlet {
  /** Resolves when the destination has agreed to Config, and RAM may come. Called once, first. */
  begin(guest: PassingGuest): Promise<void>;
  /** All RAM is marked: hands State over. Resolves when the destination has loaded it, where it can say so. */
  load(state: Uint8Array): Promise<void>;
  /**
   * The source has given its guest up. Resolves when the destination has it; rejects with ACKNOWLEDGEMENT_LOST where
   * nobody knows.
   */
  commit(how: HandOver): Promise<void>;
  /** The migration has failed at the other end. Resolves when everything is closed; never rejects. */
  cancel(): Promise<void>;
}
