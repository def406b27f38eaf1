/**
 * Attached tracking: a userfaultfd over the memory of another process, and what can be done through it.
 *
 * The descriptor comes from the attach program (native/attach/), which lets the
 * process open it, or takes one that a preload library has opened there. From
 * then on it is ours alone: it does not keep the process from anything, and when it is
 * closed, also by our death, the kernel ends the tracking of all that was registered.
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { text } from "node:stream/consumers";
import { fileURLToPath } from "node:url";
import { receiveDescriptors } from "./descriptors.js";
import { call } from "./library.js";
import { checked, errnoName, isErrno } from "./native-result.js";
import { closeDescriptor, socketPair } from "./sockets.js";

const built = (name: string) =>
  fileURLToPath(new URL(`build/${name}`, import.meta.resolve("@multifd/kernel/package.json")));
const program = built("multifd-attach");

/** The preload library, for the LD_PRELOAD of a QEMU that is to be tracked without being attached to. */
export const preloadLibrary = built("multifd-track.so");

/** Either the descriptor, which is then the caller's, or the step that failed and why: the caller knows what to advise. */
export type AttachAnswer =
  | { readonly ok: true; readonly descriptor: number }
  | { readonly ok: false; readonly step: AttachStep; readonly errno: string };

/** As native/attach/ names them; `timeout` where it was still waiting for the process. */
export type AttachStep =
  | "timeout"
  | "usage"
  | "process"
  | "architecture"
  | "seize"
  | "seccomp"
  | "interrupt"
  | "continue"
  | "wait"
  | "ended"
  | "signals"
  | "system-call-info"
  | "registers"
  | "not-64-bit"
  | "room"
  | "detach"
  | "userfaultfd"
  | "copy"
  | "hand-over";

export type AttachWishes = {
  readonly pid: number;
  /** Up to a minute. The process is stopped for a few milliseconds of it. */
  readonly timeoutMs: number;
  /** Takes a copy of this descriptor of the process, a userfaultfd that it has opened, instead of stopping it. */
  readonly held?: number;
  /** Another build of the attach program; for tests. */
  readonly program?: string;
};

/**
 * Gets a userfaultfd over the memory of a running process.
 *
 * The process goes on as if nothing had been, whatever happens, this program's death included.
 *
 * @throws {Error} if the program cannot be started at all.
 */
export async function attachToProcess(wishes: AttachWishes): Promise<AttachAnswer> {
  const [ours, theirs] = socketPair();
  try {
    const words = [wishes.pid, wishes.timeoutMs, ...(wishes.held === undefined ? [] : [wishes.held])].map(String);
    const child = spawn(wishes.program ?? program, words, { stdio: ["ignore", "pipe", "inherit", theirs] });
    const [said, [status, signal]] = await Promise.all([text(child.stdout!), once(child, "exit")]);
    if (status === 0) {
      const [descriptor] = receiveDescriptors(ours, new Uint8Array(1), 1).descriptors;
      return { ok: true, descriptor: descriptor! };
    }
    if (signal === "SIGALRM") return { ok: false, step: "timeout", errno: "ETIMEDOUT" };
    const [step, errno] = said.trim().split(" ");
    if (step === undefined || errno === undefined) {
      return { ok: false, step: "ended", errno: signal === null ? `status ${status}` : String(signal) };
    }
    return { ok: false, step: step as AttachStep, errno: errnoName(-Number(errno)).name };
  } finally {
    closeDescriptor(ours);
    closeDescriptor(theirs);
  }
}

/** Switches asynchronous write protection on, once, before anything is registered. */
export function enableTracking(tracker: number): void {
  checked(call("mfd_track_enable", tracker), "switching on a userfaultfd's asynchronous write protection");
}

/**
 * Registers a range of the process that the descriptor watches; it may have been registered with it before.
 *
 * @throws {SystemError} SYSTEM_EBUSY: with another descriptor; SYSTEM_EINVAL: nothing is mapped there.
 */
export function registerIn(tracker: number, address: number, lengthBytes: number): void {
  checked(
    call("mfd_track_register_in", tracker, address, lengthBytes),
    `registering ${lengthBytes} bytes at 0x${address.toString(16)} for dirty tracking`,
  );
}

/** Ends the tracking of a range. A process, or a mapping, that is gone needs that no more. */
export function unregisterIn(tracker: number, address: number, lengthBytes: number): void {
  const result = call("mfd_track_unregister", tracker, address, lengthBytes);
  if (!isErrno(result, "ESRCH", "ENOMEM", "EINVAL")) {
    checked(result, `ending the dirty tracking of ${lengthBytes} bytes at 0x${address.toString(16)}`);
  }
}
