/**
 * Report: everything that one run has measured, as `report.json` holds it.
 */
import type { Verdict } from "./contract.js";
import type { CoordinatorReport } from "./coordinator/coordinator-report.js";
import type { LiveReport } from "./live/live-report.js";
import type { Machine } from "./machine.js";
import type { Case } from "./plan.js";
import type { Summary } from "./summary.js";

export type CaseReport = Omit<Case, "codec"> & {
  readonly method: string;
  readonly variants: readonly Summary[];
  readonly verdicts: readonly Verdict[];
};

export type Report = {
  /** Raised when a reader of older reports would misread a newer one. */
  readonly format: 2;
  /** ISO 8601. */
  readonly startedAt: string;
  readonly machine: Machine;
  /** The machine at the other end; null where both ends ran on one. */
  readonly destinationMachine: Machine | null;
  /** As it says itself; null where none was measured. */
  readonly qemu: string | null;
  /** Counted rounds of each case. */
  readonly rounds: number;
  /** Measured first: the base of each codec. */
  readonly cases: readonly CaseReport[];
  readonly live: LiveReport | null;
  readonly coordinator: CoordinatorReport | null;
};
