/**
 * Bytes over raw sockets, for what is not a packet: handshakes, the main channel, control messages.
 *
 * All but `pollReadable` run on the calling thread, and `sendBytes` and
 * `receiveBytes` block it: on a thread that must not wait, poll or peek first.
 */
import { call, callInNewThread } from "./library.js";
import { checked, isErrno } from "./native-result.js";

const waitMax = 1024;

/**
 * Waits, off the calling thread, until a descriptor is readable, has ended, or `timeoutMs` passed (-1: for ever).
 *
 * Each wait holds one of libuv's four pool threads, which files and name look-ups need too: bound it, and repeat.
 *
 * @param fds  At most 1024.
 * @returns Which of them are, in the same order; none after a time-out.
 */
export async function pollReadable(fds: readonly number[], timeoutMs: number): Promise<boolean[]> {
  if (fds.length > waitMax)
    throw new RangeError(`waiting for ${fds.length} descriptors, at most ${waitMax} go at once`);
  const descriptors = Int32Array.from(fds);
  const ready = new Uint8Array(Math.max(fds.length, 1));
  checked(
    await callInNewThread("mfd_poll", new Uint8Array(descriptors.buffer), fds.length, timeoutMs, ready),
    "waiting for descriptors",
  );
  // Naming both arrays here also keeps them alive while C holds their addresses.
  return Array.from(descriptors, (_, i) => ready[i] === 1);
}

/** Looks at the next bytes without taking them or blocking; null: nothing yet; 0: the stream ended. */
export function peekBytes(fd: number, out: Uint8Array): number | null {
  const result = call("mfd_peek", fd, out, out.byteLength);
  return isErrno(result, "EAGAIN") ? null : checked(result, "peeking at a socket");
}

/** @throws {ChannelError} CHANNEL_BROKEN, CHANNEL_TIMEOUT. */
export function sendBytes(fd: number, bytes: Uint8Array): void {
  checked(call("mfd_send_bytes", fd, bytes, bytes.byteLength), `sending ${bytes.byteLength} bytes`);
}

/**
 * Fills `out`.
 *
 * @returns Bytes received: fewer than asked only at the end of the stream.
 * @throws {ChannelError} CHANNEL_BROKEN, CHANNEL_TIMEOUT.
 */
export function receiveBytes(fd: number, out: Uint8Array): number {
  return checked(call("mfd_receive_bytes", fd, out, out.byteLength), `receiving ${out.byteLength} bytes`);
}

/** Bounds every blocking send and receive on this socket, which then ends with CHANNEL_TIMEOUT; 0 for no bound. */
export function setSocketTimeout(fd: number, timeoutMs: number): void {
  checked(call("mfd_socket_timeout", fd, timeoutMs), "bounding a socket's waits");
}
