/**
 * Descriptors sent along a unix socket: how one process hands its RAM files to another.
 */
import { call } from "./library.js";
import { checked } from "./native-result.js";

/** What one message carries at most. */
const descriptorsMax = 64;

/**
 * @param bytes        At least one: descriptors ride on bytes.
 * @param descriptors  At most 64; they stay open here.
 */
export function sendDescriptors(fd: number, bytes: Uint8Array, descriptors: readonly number[]): void {
  const list = Int32Array.from(descriptors.length > 0 ? descriptors : [-1]);
  checked(
    call("mfd_send_descriptors", fd, bytes, bytes.byteLength, new Uint8Array(list.buffer), descriptors.length),
    `sending ${descriptors.length} descriptors`,
  );
}

/**
 * Receives one message: what one recvmsg returns.
 *
 * @param max  Descriptors wanted, at most 64; those beyond are closed.
 * @returns Bytes of `out` filled (0: the stream ended) and the descriptors, which are now the caller's to close.
 */
export function receiveDescriptors(fd: number, out: Uint8Array, max: number): { bytes: number; descriptors: number[] } {
  const list = new Int32Array(descriptorsMax);
  const count = new Int32Array(1);
  const bytes = checked(
    call(
      "mfd_receive_descriptors",
      fd,
      out,
      out.byteLength,
      new Uint8Array(list.buffer),
      max,
      new Uint8Array(count.buffer),
    ),
    "receiving descriptors",
  );
  return { bytes, descriptors: Array.from(list.subarray(0, count[0])) };
}
