/**
 * Host view: what of a machine's files and sockets another QEMU would take from whoever has them.
 *
 * A QEMU that listens on a unix socket removes what was there before: the one that had it hears nothing more. An output
 * file is emptied by whoever opens it. Neither can be seen from a failure, so both are looked for beforehand.
 *
 * Source: proc_net_unix(5).
 */
import { readFileSync, statSync } from "node:fs";
import { resolve } from "node:path";

export interface HostView {
  /** Whether somebody has a unix socket bound to that path. */
  isBound(path: string): boolean;
  /** Whether there is a regular file. */
  isFile(path: string): boolean;
}

const UNIX_SOCKET = /^\S+: \S+ \S+ \S+ \S+ \S+ +\d+ (\/.+)$/;

/** @param folder  What relative paths begin at. */
export function viewHost(folder: string): HostView {
  return {
    isBound: (path) => boundSockets().has(resolve(folder, path)),
    isFile: (path) => statSync(resolve(folder, path), { throwIfNoEntry: false })?.isFile() === true,
  };
}

function boundSockets(): ReadonlySet<string> {
  const lines = readFileSync("/proc/net/unix", "utf8").split("\n");
  return new Set(lines.flatMap((line) => UNIX_SOCKET.exec(line)?.[1] ?? []));
}
