/**
 * Save check: what has to agree before a guest counts as saved.
 *
 * QEMU's word that it has completed is not enough: its count of pages is held against
 * ours, and what was kept, read back, against the machine.
 */
import type { MigrationResult } from "@multifd/engine";
import { ProtocolError } from "@multifd/protocol";
import type { MigrationInfo } from "./migration-info.js";
import { compareMachines, type SavedMachine } from "./preflight.js";
import type { QemuFacts } from "./qemu-facts.js";

/**
 * QEMU's count against ours. QEMU 7.2 sends some pages twice and counts them once, so more may come, never fewer.
 *
 * @throws {ProtocolError} SAVE_UNVERIFIED.
 */
export function checkCounts(result: MigrationResult, info: MigrationInfo): void {
  if (!result.acknowledged) throw unverified("QEMU did not ask for our word (no return path)");
  if (info.ramBytes !== result.ramBytes) {
    throw unverified(`QEMU counts ${info.ramBytes} bytes of RAM, here came ${result.ramBytes}`);
  }
  if (info.normalPages > result.normalPages || info.zeroPages > result.zeroPages) {
    throw unverified(
      `QEMU counts ${info.normalPages} pages with contents and ${info.zeroPages} zero pages, here came ${result.normalPages} and ${result.zeroPages}`,
    );
  }
}

/** What was kept against the machine that it is of. @throws {ProtocolError} SAVE_UNVERIFIED. */
export function checkMachine(saved: SavedMachine, facts: QemuFacts): void {
  try {
    compareMachines(saved, facts, []);
  } catch (cause) {
    throw unverified((cause as Error).message, cause);
  }
}

function unverified(why: string, cause?: unknown): ProtocolError {
  return new ProtocolError("SAVE_UNVERIFIED", `what was saved was thrown away, for it did not pass: ${why}`, { cause });
}
