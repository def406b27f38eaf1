/**
 * Attach refusals: why a process's RAM could not be tracked, and what to do about it.
 *
 * The attach program names the step that failed and the kernel's word; this turns
 * both, and what /proc says about the process, into an error with a remedy.
 */
import { readFileSync } from "node:fs";
import type { AttachAnswer } from "@multifd/native";
import { SystemError } from "@multifd/protocol";

export type AttachFailure = Extract<AttachAnswer, { ok: false }>;

const PRELOAD =
  "start QEMU with the preload library instead (LD_PRELOAD=native/build/multifd-track.so MULTIFD_TRACK=RAM-FILE)";

function read(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return "";
  }
}

/** The preload library is there, and has not registered what is to be tracked; or we have attached. */
const COPY = "; the preload library helps only where MULTIFD_TRACK names all of the guest's RAM files";

/** The number after `name:` in /proc/PID/status; 0 where there is none. */
function statusField(pid: number, name: string): number {
  return Number(new RegExp(`^${name}:\\s+(\\d+)`, "m").exec(read(`/proc/${pid}/status`))?.[1] ?? 0);
}

/** @param otherwise  What else may help. */
function whyNotTraced(pid: number, otherwise: string): SystemError {
  const tracer = statusField(pid, "TracerPid");
  if (tracer !== 0) {
    return new SystemError(
      "PROCESS_ALREADY_TRACED",
      `process ${pid} is being traced by process ${tracer} (${read(`/proc/${tracer}/comm`).trim()}), and only one tracer can be; end that debugger`,
    );
  }
  const owner = statusField(pid, "Uid");
  const scope = read("/proc/sys/kernel/yama/ptrace_scope").trim();
  const own = process.getuid?.() ?? 0;
  const reason =
    own !== 0 && owner !== own
      ? `it belongs to user ${owner} and we run as ${own}`
      : scope !== "" && scope !== "0"
        ? `kernel.yama.ptrace_scope is ${scope}`
        : "the kernel or a container's profile forbids it";
  return new SystemError(
    "PTRACE_DENIED",
    `attaching to process ${pid} is not permitted: ${reason}; run as root (CAP_SYS_PTRACE), or give the attach program the right (setcap cap_sys_ptrace+ep native/build/multifd-attach)${otherwise}`,
  );
}

/** The error that a failed attach stands for. */
export function attachRefusal(pid: number, { step, errno }: AttachFailure): SystemError {
  if (errno === "ESRCH") return new SystemError("PROCESS_GONE", `process ${pid} does not run (any more)`);
  switch (step) {
    case "seize":
      return errno === "EPERM" ? whyNotTraced(pid, `, or ${PRELOAD}`) : unforeseen(pid, step, errno);
    case "copy":
      return errno === "EPERM" ? whyNotTraced(pid, COPY) : unforeseen(pid, step, errno);
    case "seccomp":
      return new SystemError(
        "PROCESS_FILTERED",
        `process ${pid} runs under a seccomp filter (QEMU: -sandbox on), which may end it for a system call that is not its own; ${PRELOAD}`,
      );
    case "architecture":
      return new SystemError(
        "ATTACH_UNSUPPORTED",
        `process ${pid} cannot be attached to: that works on x86-64 only, and this is ${process.arch}; ${PRELOAD}`,
      );
    case "not-64-bit":
      return new SystemError("ATTACH_UNSUPPORTED", `process ${pid} is not a 64-bit program; ${PRELOAD}`);
    case "room":
      return new SystemError(
        "ATTACH_UNSUPPORTED",
        `process ${pid} has no unused executable memory that can be written; ${PRELOAD}`,
      );
    case "timeout":
      return new SystemError(
        "ATTACH_TIMEOUT",
        `process ${pid} did not stop in the time allowed; its main thread may wait for a disk (state D in /proc/${pid}/status): try again, or ${PRELOAD}`,
      );
    case "userfaultfd":
      return new SystemError(
        "TRACKING_MISSING",
        `process ${pid} may not open a userfaultfd: ${errno}; Linux 6.7 or newer with CONFIG_USERFAULTFD is needed, and a container's profile that allows it`,
      );
    default:
      return unforeseen(pid, step, errno);
  }
}

function unforeseen(pid: number, step: string, errno: string): SystemError {
  return new SystemError(
    "ATTACH_FAILED",
    `attaching to process ${pid}: step "${step}" failed with ${errno}; the process goes on untouched, so it may be tried again`,
  );
}
