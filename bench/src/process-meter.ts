/**
 * Process meter: what a process uses, seen from outside through /proc.
 *
 * CPU is user and system time of all threads, /proc/PID/stat, after minus before:
 * starting up is not counted, for an orchestrator or a VM runs already. Memory is
 * the highest RssAnon of /proc/PID/status among samples: guest RAM lies in shared
 * files and is RssShmem, so RssAnon is what a process holds beside it. The kernel
 * keeps a high-water mark of the sum only (VmHWM), hence the samples; a peak
 * between two of them is missed.
 */
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";

export type Usage = {
  readonly cpuSeconds: number;
  readonly peakAnonBytes: number;
};

const SAMPLE_MS = 20;
/** Kernel clock ticks a second, in which /proc/PID/stat counts. */
const TICKS_PER_SECOND = Number(execFileSync("getconf", ["CLK_TCK"], { encoding: "utf8" }));

export class ProcessMeter {
  readonly #pid: number;
  readonly #cpuBefore: number;
  readonly #timer: NodeJS.Timeout;
  #peakAnonBytes = 0;

  /** Begins to measure. The process must live until `stop`. */
  constructor(pid: number) {
    this.#pid = pid;
    this.#cpuBefore = readCpuSeconds(pid);
    this.#timer = setInterval(() => this.#sample(), SAMPLE_MS);
  }

  /** Ends the measurement; once. */
  stop(): Usage {
    const cpuSeconds = readCpuSeconds(this.#pid) - this.#cpuBefore;
    this.#sample();
    this.cancel();
    return { cpuSeconds, peakAnonBytes: this.#peakAnonBytes };
  }

  cancel(): void {
    clearInterval(this.#timer);
  }

  #sample(): void {
    this.#peakAnonBytes = Math.max(this.#peakAnonBytes, readAnonBytes(this.#pid));
  }
}

/** Source: proc(5), /proc/pid/stat, utime (14) and stime (15). */
function readCpuSeconds(pid: number): number {
  const line = readFileSync(`/proc/${pid}/stat`, "utf8");
  // The second field is the program's name in parentheses and may hold spaces.
  const fields = line.slice(line.lastIndexOf(")") + 2).split(" ");
  return (Number(fields[11]) + Number(fields[12])) / TICKS_PER_SECOND;
}

/** Memory that a process holds beside files; 0 for one that has just ended. */
export function readAnonBytes(pid: number): number {
  let status: string;
  try {
    status = readFileSync(`/proc/${pid}/status`, "utf8");
  } catch {
    return 0;
  }
  return Number(/^RssAnon:\s*(\d+) kB$/m.exec(status)?.[1] ?? 0) * 1024;
}
