/**
 * Sockets as raw descriptors: opened, listened on, shut down, closed.
 *
 * They block, since a channel's worker has nothing else to do, and they are
 * cancelled by `shutdownSocket` from another thread: whoever is inside a call
 * on them returns. Closing does not wake anyone, so shut down first, and close
 * when the worker has answered.
 */
import { ChannelError } from "@multifd/protocol";
import { call, callInNewThread } from "./library.js";
import { checked, errnoName, isErrno, nativeError } from "./native-result.js";

/** Numeric hosts only. A unix path that starts with "@" names the abstract space. */
export type SocketAddress =
  | { readonly family: 4 | 6; readonly host: string; readonly port: number }
  | { readonly family: 1; readonly path: string };

function parts(address: SocketAddress): { host: string; port: number; name: string } {
  if (address.family === 1) return { host: address.path, port: 0, name: `unix:${address.path}` };
  const { family, host, port } = address;
  return { host, port, name: family === 6 ? `tcp:[${host}]:${port}` : `tcp:${host}:${port}` };
}

/** Answers to connect(2) that a peer which starts later, or a mended network, would change. */
function mayPass(result: number): boolean {
  return isErrno(result, "ENOENT", "EADDRNOTAVAIL") || nativeError(result, "") instanceof ChannelError;
}

/**
 * Connects, off the calling thread.
 *
 * @param timeoutMs  Whole milliseconds above 0; -1 for as long as the system allows.
 * @throws {ChannelError} CONNECT_FAILED, CHANNEL_TIMEOUT.
 */
export async function connectSocket(address: SocketAddress, timeoutMs: number): Promise<number> {
  const { host, port, name } = parts(address);
  const result = await callInNewThread("mfd_connect", address.family, host, port, timeoutMs);
  const action = `connecting to ${name}`;
  if (result < 0 && result > -4096 && mayPass(result)) {
    const errno = errnoName(result);
    throw new ChannelError("CONNECT_FAILED", `${action}: ${errno.text} (${errno.name}); is the peer listening there?`);
  }
  return checked(result, action);
}

/** @throws {SystemError} SYSTEM_EADDRINUSE and its like. */
export function listenSocket(address: SocketAddress, backlog: number): number {
  const { host, port, name } = parts(address);
  return checked(call("mfd_listen", address.family, host, port, backlog), `listening on ${name}`);
}

/** Whether a socket is bound to a unix path, rather than just its name left. Its owner notices nothing. */
export function isPathInUse(path: string): boolean {
  return checked(call("mfd_path_in_use", path), `looking at unix:${path}`) === 1;
}

/** The next waiting peer's socket; null when nobody waits. Never blocks. */
export function acceptSocket(fd: number): number | null {
  const result = call("mfd_accept", fd);
  return isErrno(result, "EAGAIN") ? null : checked(result, "accepting a peer");
}

/** The port a TCP socket is bound to; 0 for a unix socket. */
export function localPort(fd: number): number {
  return checked(call("mfd_local_port", fd), `asking descriptor ${fd} for its port`);
}

/** Ends both directions and wakes whoever is blocked on them. A socket already gone is no error. */
export function shutdownSocket(fd: number): void {
  const result = call("mfd_shutdown", fd);
  if (!isErrno(result, "ENOTCONN", "EBADF")) checked(result, "shutting a socket down");
}

/** Ends our direction: the peer reads what is in flight, then the end of the stream. A socket already gone is no error. */
export function shutdownSending(fd: number): void {
  const result = call("mfd_shutdown_write", fd);
  if (!isErrno(result, "ENOTCONN", "EBADF")) checked(result, "ending the sending side of a socket");
}

export function closeDescriptor(fd: number): void {
  checked(call("mfd_close", fd), `closing descriptor ${fd}`);
}

/** Two connected unix sockets. */
export function socketPair(): [number, number] {
  const pair = new Int32Array(2);
  checked(call("mfd_socketpair", new Uint8Array(pair.buffer)), "making a pair of sockets");
  return [pair[0]!, pair[1]!];
}
