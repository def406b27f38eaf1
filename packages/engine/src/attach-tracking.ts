/**
 * Attach: dirty tracking for a process that knows nothing of it.
 *
 * Finds the guest's RAM in the process, refuses what would lose writes, gets a
 * userfaultfd over its memory (from the preload library if that is there, else by
 * attaching for a few milliseconds) and registers every mapping of the RAM. That costs
 * the guest nothing until the first harvest protects pages. Where nobody may be traced, what the preload library has
 * registered is harvested as it is.
 *
 * The descriptor is only ours, so the tracking ends with `detach`, with the tracker's `stop`, or with this
 * process, however it dies. One tracking per RAM file at a time: a second would
 * take pages away from the first, so the files are locked (flock) meanwhile.
 */
import { readFileSync } from "node:fs";
import type { DirtyTracker } from "@multifd/memory";
import {
  attachToProcess,
  closeDescriptor,
  enableTracking,
  lockFile,
  registerIn,
  unlockFile,
  unregisterIn,
} from "@multifd/native";
import { SystemError } from "@multifd/protocol";
import { attachRefusal } from "./attach-refusal.js";
import type { RamSource } from "./guest.js";
import { requireTracking } from "./kernel-tracking.js";
import {
  descriptorsOf,
  descriptorTarget,
  refuseDirectIo,
  refuseDmaDevices,
  refuseOtherWriters,
} from "./other-writers.js";
import { type FileMapping, fileIdentity, findRam, mappingsOf } from "./process-ram.js";
import { UserfaultfdTracker } from "./userfaultfd-tracker.js";

export type AttachJob = {
  readonly pid: number;
  /** The blocks, in the order in which the tracker will be asked; each file open, and open until the tracking has ended. */
  readonly ram: readonly RamSource[];
  /** Processes that map the RAM too, but whose writes another tracker sees (a vhost-user log). */
  readonly trackedElsewhere?: readonly number[];
  /** The guest has `holdTransfers`, so that reads past the page cache need not be refused. */
  readonly transfersHeld?: boolean;
  /** 5000 unless given. */
  readonly timeoutMs?: number;
};

export type AttachedTracking = {
  /** `start` it with the job's blocks; `stop` detaches. */
  readonly tracker: DirtyTracker;
  /** Whose userfaultfd it is: opened by attaching, or held by the preload library. */
  readonly way: "attached" | "preloaded";
  /** Ends the tracking and leaves no trace in the process; may be called again, and when the process is gone. */
  detach(): Promise<void>;
};

const TIMEOUT_MS = 5000;
const PRELOAD_LIBRARY = /\/multifd-track\.so$/;
/** The features that the preload library switches on, as /proc/PID/fdinfo shows them; bit 31 says that they are on. */
const PRELOAD_FEATURES = /^API:\s+aa:8000b000:/m;

/**
 * Begins to track a running process's writes to guest RAM.
 *
 * @throws {SystemError} naming what is in the way and the remedy: TRACKING_MISSING, PROCESS_GONE, PTRACE_DENIED,
 *   PROCESS_ALREADY_TRACED, PROCESS_FILTERED, ATTACH_UNSUPPORTED, ATTACH_TIMEOUT, RAM_NOT_MAPPED, RAM_NOT_SHARED,
 *   RAM_PARTLY_MAPPED, RAM_WRITTEN_ELSEWHERE, RAM_WRITTEN_BY_DEVICE,
 *   RAM_WRITTEN_BY_DIRECT_IO, TRACKING_BUSY. The process is then as before.
 */
export async function attachTracking(job: AttachJob): Promise<AttachedTracking> {
  const { pid, ram } = job;
  requireTracking();
  const mappings = mappingsOf(pid);
  const found = ram.map((each) => findRam(pid, mappings, each));
  const files = new Set(ram.map(({ descriptor }) => fileIdentity(descriptor)));
  refuseOtherWriters(files, new Set([pid, ...(job.trackedElsewhere ?? [])]));
  refuseDmaDevices(pid);
  if (!job.transfersHeld) refuseDirectIo(pid);
  const ranges = new Set(found.flatMap((block) => block.mappings));
  const release = lockFiles(ram);
  try {
    const { descriptor, way } = await openTracking(job, mappings, ranges);
    const registered = descriptor === null ? null : new Registration(descriptor, ranges);
    try {
      registered?.begin();
    } catch (error) {
      registered?.end();
      throw error;
    }
    const detach = async () => {
      registered?.end();
      release();
    };
    const tracker = new UserfaultfdTracker(
      pid,
      found.map(({ runs }) => runs),
      detach,
    );
    return { tracker, way, detach: () => tracker.stop() };
  } catch (error) {
    release();
    throw error;
  }
}

/** Locks the RAM files, each once. @returns what unlocks them; may be called again. */
function lockFiles(ram: readonly RamSource[]): () => void {
  const locked = new Map<string, number>();
  const release = () => {
    for (const descriptor of locked.values()) unlockFile(descriptor);
    locked.clear();
  };
  for (const { block, descriptor } of ram) {
    const file = fileIdentity(descriptor);
    if (locked.has(file)) continue;
    if (!lockFile(descriptor)) {
      release();
      throw busy(`the file of RAM block "${block.name}" is locked`);
    }
    locked.set(file, descriptor);
  }
  return release;
}

function busy(what: string): SystemError {
  return new SystemError(
    "TRACKING_BUSY",
    `${what}: another migration or snapshot tracks this guest's writes already, and they cannot be shared; wait for its end`,
  );
}

/**
 * A userfaultfd over the process's memory, ready to register; null where we may not have a copy of the preload library's, and
 * need none: it has registered all of the RAM, and the harvests take no more than the right to look at the process.
 */
async function openTracking(
  { pid, timeoutMs = TIMEOUT_MS }: AttachJob,
  mappings: readonly FileMapping[],
  ranges: ReadonlySet<FileMapping>,
): Promise<{ descriptor: number | null; way: AttachedTracking["way"] }> {
  const held = mappings.some(({ path }) => PRELOAD_LIBRARY.test(path)) ? preloadedDescriptor(pid) : undefined;
  const answer = await attachToProcess({ pid, timeoutMs, ...(held === undefined ? {} : { held }) });
  if (!answer.ok) {
    const forbidden = answer.step === "copy" && answer.errno === "EPERM";
    if (held !== undefined && forbidden && areRegistered(pid, ranges)) return { descriptor: null, way: "preloaded" };
    throw attachRefusal(pid, answer);
  }
  const { descriptor } = answer;
  if (held !== undefined) return { descriptor, way: "preloaded" };
  try {
    enableTracking(descriptor);
  } catch (error) {
    closeDescriptor(descriptor);
    throw error;
  }
  return { descriptor, way: "attached" };
}

/** The number of the userfaultfd that the preload library has opened; undefined where it was not asked to. */
function preloadedDescriptor(pid: number): number | undefined {
  return descriptorsOf(pid).find((descriptor) => {
    if (descriptorTarget(pid, descriptor) !== "anon_inode:[userfaultfd]") return false;
    try {
      return PRELOAD_FEATURES.test(readFileSync(`/proc/${pid}/fdinfo/${descriptor}`, "utf8"));
    } catch {
      return false; // closed meanwhile
    }
  });
}

/** Whether all of these mappings are registered for write protection, by whomever. Source: proc(5), VmFlags `uw`. */
function areRegistered(pid: number, ranges: ReadonlySet<FileMapping>): boolean {
  const registered = new Set<number>();
  let address = 0;
  for (const line of readFileSync(`/proc/${pid}/smaps`, "latin1").split("\n")) {
    const head = /^([0-9a-f]+)-[0-9a-f]+ /.exec(line);
    if (head !== null) address = Number.parseInt(head[1]!, 16);
    else if (/^VmFlags:.* uw\b/.test(line)) registered.add(address);
  }
  return [...ranges].every((range) => registered.has(range.address));
}

/** The mappings as registered with one descriptor, which it owns. */
class Registration {
  readonly #descriptor: number;
  readonly #ranges: ReadonlySet<FileMapping>;
  #open = true;

  constructor(descriptor: number, ranges: ReadonlySet<FileMapping>) {
    this.#descriptor = descriptor;
    this.#ranges = ranges;
  }

  begin(): void {
    for (const { address, lengthBytes, path } of this.#ranges) {
      try {
        registerIn(this.#descriptor, address, lengthBytes);
      } catch (error) {
        if (error instanceof SystemError && error.code === "SYSTEM_EBUSY") throw busy(`${path} is registered`);
        throw error;
      }
    }
  }

  end(): void {
    if (!this.#open) return;
    this.#open = false;
    try {
      for (const { address, lengthBytes } of this.#ranges) unregisterIn(this.#descriptor, address, lengthBytes);
    } finally {
      closeDescriptor(this.#descriptor);
    }
  }
}
