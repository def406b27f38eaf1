/**
 * Migration events: what the engine tells whoever watches.
 *
 * One closed union, the same at both ends; the command line prints it as JSON
 * lines or draws it. Bytes are bytes, times are milliseconds, rates are bytes
 * per second. Counters grow over the whole migration unless the name says round.
 */
import { MigrationError } from "@multifd/protocol";

/** Counters of one end. */
export type MigrationTotals = {
  /** Bytes in all RAM blocks. */
  readonly ramBytes: number;
  /** Bytes of the channels and the main channel together. */
  readonly wireBytes: number;
  /** Pages with contents, counted each time they crossed. */
  readonly normalPages: number;
  readonly zeroPages: number;
  /** Passes over the dirty bitmap, the last one included. */
  readonly rounds: number;
};

export type MigrationEvent =
  | { readonly event: "listening"; readonly address: string; readonly channels: number }
  | { readonly event: "connected"; readonly peer: string; readonly channels: number }
  | { readonly event: "round"; readonly round: number; readonly dirtyPages: number; readonly dirtyBytes: number }
  | (MigrationTotals & {
      readonly event: "progress";
      readonly elapsedMs: number;
      /** Guest RAM of this round still to be sent; at the destination, of the first pass. */
      readonly remainingBytes: number;
      /** Guest RAM covered per second, lately. */
      readonly bytesPerSecond: number;
      /** Null while nothing is known yet, and at the destination, which does not know. */
      readonly expectedDowntimeMs: number | null;
    })
  | {
      readonly event: "switchover";
      readonly round: number;
      readonly dirtyPages: number;
      readonly expectedDowntimeMs: number;
    }
  | (MigrationTotals & {
      readonly event: "completed";
      readonly totalMs: number;
      /** From the pause of the guest to the acknowledgement; null where this end did not see the guest run. */
      readonly downtimeMs: number | null;
      /** User and system time of this process, all threads, during the migration. */
      readonly cpuSeconds: number;
      /** Whether the destination said that it has everything; without a return path a source cannot know. */
      readonly acknowledged: boolean;
    })
  | { readonly event: "failed"; readonly code: string; readonly message: string };

export type MigrationResult = Extract<MigrationEvent, { event: "completed" }>;

/** Called on the coordinator thread; must not throw and must not block. */
export type EventSink = (event: MigrationEvent) => void;

/** Runs a migration and tells its end, as the last event and the only one of its kind. @throws what `run` throws. */
export async function tellOutcome<Result extends MigrationResult>(
  onEvent: EventSink,
  run: () => Promise<Result>,
): Promise<Result> {
  try {
    const result = await run();
    onEvent(result);
    return result;
  } catch (error) {
    const code = error instanceof MigrationError ? error.code : "DEFECT";
    onEvent({ event: "failed", code, message: error instanceof Error ? error.message : String(error) });
    throw error;
  }
}
