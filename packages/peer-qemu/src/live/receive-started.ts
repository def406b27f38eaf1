/**
 * Receive into a QEMU that is started for it, and ended again if no guest comes.
 *
 * With a command line that is known QEMU is started first, so that what is wrong with it is told before anybody
 * connects. Where the source tells it, QEMU is started when it has (destination-to-start.ts).
 */
import type { MigrationResult } from "@multifd/engine";
import { ConfigError, MigrationError } from "@multifd/protocol";
import { splitCommandLine } from "../start/qemu-options.js";
import { refuseExisting, StartedQemu, type StartTerms } from "../start/started-qemu.js";
import { DestinationToStart } from "./destination-to-start.js";
import type { MachineRecord } from "./machine-record.js";
import { type ReceiveQemuJob, receiveQemu, takeIn } from "./receive-qemu.js";

type StartedJob = Omit<ReceiveQemuJob, "qmp" | "pid" | "ramFiles" | "beforeRun">;

export type ReceiveStartedJob = StartedJob & { readonly start: StartTerms };

export type ReceiveAsSourceJob = StartedJob & {
  readonly start: Omit<StartTerms, "line" | "preloaded" | "machineType"> & {
    /** What is started, with the source's options; empty: `qemu-system-…` of the guest's architecture. */
    readonly program: readonly string[];
  };
};

/** A migration's result, and the process that the guest is in now. */
export type StartedResult = MigrationResult & { readonly qemuPid: number };

const ARCHITECTURE = /^[a-z0-9_]{1,32}$/;

/**
 * Starts a QEMU by a command line that is known, and takes one guest in from `migrateQemu`.
 *
 * @throws {MigrationError} what ended it, as `StartedQemu.start` and `receiveQemu`. No QEMU is left then, nor its RAM
 *   files; but for ACKNOWLEDGEMENT_LOST, where the guest may run in it.
 */
export async function receiveIntoStarted({ start, ...job }: ReceiveStartedJob): Promise<StartedResult> {
  refuseExisting(start.ramFiles);
  const started = await StartedQemu.start(start);
  try {
    const result = await receiveQemu({
      ...job,
      qmp: started.qmp,
      ramFiles: new Map(),
      beforeRun: () => started.release(),
    });
    await started.leave();
    return { ...result, qemuPid: started.pid };
  } catch (error) {
    if (mayRun(error)) await started.leave();
    else await started.end();
    throw error;
  }
}

/**
 * Takes one guest in from `migrateQemu`, into a QEMU that is started with the options of the source's. They come from the
 * network and can name any file or program of this host: only for a source that is trusted like this host's own users.
 *
 * @throws {MigrationError} as `receiveIntoStarted`; {ConfigError} LINE_MISSING.
 */
export async function receiveAsSource({ start, ...job }: ReceiveAsSourceJob): Promise<StartedResult> {
  refuseExisting(start.ramFiles);
  const { meeting, afterwards, onWarning } = job;
  const { program, ...terms } = start;
  const plan = (record: MachineRecord): StartTerms => ({ ...terms, ...lineOf(record, program) });
  const guest = new DestinationToStart({ meeting, afterwards, onWarning, ramFiles: start.ramFiles, plan });
  try {
    const result = await takeIn(job, guest, guest.gone, undefined);
    return { ...result, qemuPid: await guest.leave() };
  } catch (error) {
    if (mayRun(error)) await guest.leave();
    throw error;
  } finally {
    guest.close();
  }
}

function lineOf(record: MachineRecord, program: readonly string[]) {
  const { commandLine, target, preloaded, machineType } = record;
  if (commandLine.length === 0) {
    throw new ConfigError(
      "LINE_MISSING",
      "the source does not tell its QEMU's command line: it may not read it, or is another version of multifd; say it here with --start",
    );
  }
  if (!ARCHITECTURE.test(target)) throw new ConfigError("TARGET_MISMATCH", "the source names no architecture");
  const { options } = splitCommandLine(commandLine);
  return {
    line: { program: program.length > 0 ? program : [`qemu-system-${target}`], options },
    preloaded,
    machineType,
  };
}

/** Nobody knows whether the guest runs in that QEMU. */
function mayRun(error: unknown): boolean {
  return error instanceof MigrationError && error.code === "ACKNOWLEDGEMENT_LOST";
}
