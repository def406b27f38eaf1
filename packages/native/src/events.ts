/**
 * Event descriptors and pipes, shared with another process along a unix socket.
 *
 * Nothing here waits: `pollReadable` does, off the calling thread. Whoever makes
 * a descriptor closes it.
 */
import { call } from "./library.js";
import { checked } from "./native-result.js";

/** An event descriptor that nobody has signalled. */
export function createEvent(): number {
  return checked(call("mfd_eventfd", 0), "creating an event descriptor");
}

export function signalEvent(fd: number): void {
  checked(call("mfd_eventfd_signal", fd), `signalling event descriptor ${fd}`);
}

/** @returns How often it was signalled since it was last taken; 0 for not at all. */
export function takeEvent(fd: number): number {
  return checked(call("mfd_eventfd_take", fd), `taking event descriptor ${fd}`);
}

/** A pipe: bytes written to `write` come out of `read`, and its end when every `write` end is closed. */
export function createPipe(): { readonly read: number; readonly write: number } {
  const ends = new Int32Array(2);
  checked(call("mfd_pipe", new Uint8Array(ends.buffer)), "making a pipe");
  return { read: ends[0]!, write: ends[1]! };
}
