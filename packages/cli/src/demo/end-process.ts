/** Ends a child process that we started: asks first, insists after a while. */
import type { ChildProcess } from "node:child_process";
import { once } from "node:events";

const PATIENCE_MS = 5000;

/** Resolves when the process is gone. */
export async function endProcess(child: ChildProcess): Promise<void> {
  if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) return;
  const gone = once(child, "exit");
  child.kill("SIGTERM");
  const timer = setTimeout(() => child.kill("SIGKILL"), PATIENCE_MS);
  await gone;
  clearTimeout(timer);
}
