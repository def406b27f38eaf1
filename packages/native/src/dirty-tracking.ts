/**
 * Dirty pages: bits taken from a shared bitmap, or asked of the kernel.
 *
 * Both only add to the caller's bitmap: bit i stands for page i, and bits that
 * were set stay set. Each page written is reported by exactly one harvest, and
 * a write during a harvest by this one or the next.
 */
import { call } from "./library.js";
import type { Mapping } from "./mapping.js";
import { checked, errnoName } from "./native-result.js";

/**
 * Moves bits: `out |= exchange(bitmap, 0)`, 32-bit words, atomically on `bitmap`.
 *
 * @param bitmap  Starts and ends on 4 bytes; may lie in shared memory that others set bits in.
 * @param out     At least as long.
 * @returns Bits taken.
 */
export function exchangeBitmap(bitmap: Uint8Array, out: Uint8Array): number {
  return checked(
    call("mfd_exchange_bitmap", bitmap, bitmap.byteLength, out, out.byteLength),
    `taking a dirty bitmap of ${bitmap.byteLength} bytes into ${out.byteLength}`,
  );
}

/** The same from a mapping: a log that another process keeps writing. */
export function exchangeMappedBitmap(mapping: Mapping, out: Uint8Array): number {
  const { address, lengthBytes } = mapping;
  return checked(
    call("mfd_exchange_mapped_bitmap", address, lengthBytes, out, out.byteLength),
    `taking a mapped dirty bitmap of ${lengthBytes} bytes into ${out.byteLength}`,
  );
}

/**
 * Registers a mapping of this process for asynchronous write protection.
 *
 * @returns A descriptor; closing it ends the tracking.
 * @throws {SystemError} SYSTEM_EPERM, SYSTEM_EINVAL: `probeTracking` tells what is missing.
 */
export function trackRegister(mapping: Mapping): number {
  return checked(
    call("mfd_track_register", mapping.address, mapping.lengthBytes),
    "registering memory for dirty tracking",
  );
}

export type TrackingProbe =
  | { readonly ok: true }
  | {
      readonly ok: false;
      readonly missing: "userfaultfd" | "write-protect-async" | "PAGEMAP_SCAN";
      readonly errno: string;
    };

const probeSteps = [undefined, "userfaultfd", "write-protect-async", "PAGEMAP_SCAN"] as const;

/** Whether this kernel, and our rights here, allow `trackRegister` and `harvestDirty`. */
export function probeTracking(): TrackingProbe {
  const step = new Int32Array(1);
  const result = call("mfd_track_probe", new Uint8Array(step.buffer));
  if (result >= 0) return { ok: true };
  const missing = probeSteps[step[0]!];
  if (missing === undefined) return checked(result, "probing dirty tracking") as never;
  return { ok: false, missing, errno: errnoName(result).name };
}

/**
 * Reports the pages that the process behind `pagemapFd` wrote since the last harvest, and protects them again.
 *
 * @param pagemapFd     /proc/PID/pagemap, open for reading.
 * @param startAddress  Where that process maps the memory that it registered; whole host pages.
 * @param bitmap        Written pages are added; bit i is page i of `pageBytes`.
 * @returns Pages found.
 * @throws {SystemError} SYSTEM_EPERM: the range holds memory that is not registered.
 */
export function harvestDirty(
  pagemapFd: number,
  startAddress: number,
  lengthBytes: number,
  pageBytes: number,
  bitmap: Uint8Array,
): number {
  return checked(
    call("mfd_track_harvest", pagemapFd, startAddress, lengthBytes, pageBytes, bitmap, bitmap.byteLength),
    `harvesting dirty pages of ${lengthBytes} bytes`,
  );
}
