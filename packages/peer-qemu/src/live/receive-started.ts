/**
 * Receive into a QEMU that is started for it, and ended again if no guest comes.
 */
import type { MigrationResult } from "@multifd/engine";
import { MigrationError } from "@multifd/protocol";
import { refuseExisting, StartedQemu, type StartTerms } from "../start/started-qemu.js";
import { type ReceiveQemuJob, receiveQemu } from "./receive-qemu.js";

export type ReceiveStartedJob = Omit<ReceiveQemuJob, "qmp" | "pid" | "ramFiles"> & { readonly start: StartTerms };

/** A migration's result, and the process that the guest is in now. */
export type StartedResult = MigrationResult & { readonly qemuPid: number };

/**
 * Starts a QEMU by a command line that is known, and takes one guest in from `migrateQemu`.
 *
 * @throws {MigrationError} what ended it, as `StartedQemu.start` and `receiveQemu`. No QEMU is left then, nor its RAM
 *   files; but for ACKNOWLEDGEMENT_LOST, where the guest may run in it.
 */
export async function receiveIntoStarted({ start, ...job }: ReceiveStartedJob): Promise<StartedResult> {
  refuseExisting(start.ramFiles);
  const started = await StartedQemu.start(start);
  return await endUnlessTaken(started, () => receiveQemu({ ...job, qmp: started.qmp, ramFiles: new Map() }));
}

async function endUnlessTaken(started: StartedQemu, take: () => Promise<MigrationResult>): Promise<StartedResult> {
  try {
    const result = await take();
    started.leave();
    return { ...result, qemuPid: started.pid };
  } catch (error) {
    if (error instanceof MigrationError && error.code === "ACKNOWLEDGEMENT_LOST") started.leave();
    else await started.end();
    throw error;
  }
}
