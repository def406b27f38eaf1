/**
 * Files: the storage behind guest RAM, reserved, freed, and searched for data.
 */
import { call } from "./library.js";
import { checked, isErrno } from "./native-result.js";

/**
 * Reserves storage for the file's first `lengthBytes`, so that no mapping of it can fault for want of space.
 *
 * @throws {SystemError} SYSTEM_ENOSPC, SYSTEM_EOPNOTSUPP where the file system cannot.
 */
export function reserveFile(fd: number, lengthBytes: number): void {
  checked(call("mfd_reserve", fd, lengthBytes), `reserving ${lengthBytes} bytes of storage`);
}

/** Frees the storage of a range, which then reads as zeros; the file keeps its length. */
export function punchFile(fd: number, offsetBytes: number, lengthBytes: number): void {
  checked(
    call("mfd_punch", fd, offsetBytes, lengthBytes),
    `freeing ${lengthBytes} bytes of storage at offset ${offsetBytes}`,
  );
}

/** Offset of the first data at or after `offsetBytes`; null when only holes follow. */
export function seekData(fd: number, offsetBytes: number): number | null {
  const result = call("mfd_seek_data", fd, offsetBytes);
  return isErrno(result, "ENXIO") ? null : checked(result, `looking for data from offset ${offsetBytes}`);
}

/** Offset of the first hole at or after `offsetBytes`, which must lie in the file; its end counts as one. */
export function seekHole(fd: number, offsetBytes: number): number {
  return checked(call("mfd_seek_hole", fd, offsetBytes), `looking for a hole from offset ${offsetBytes}`);
}

/** The huge page size of a file on hugetlbfs, which knows no write(2); 0 for any other file. */
export function hugePageBytes(fd: number): number {
  return checked(call("mfd_huge_page_bytes", fd), `asking descriptor ${fd} for its page size`);
}

/** Takes the exclusive advisory lock of a file for this open file; false where another has it. Closing leaves it too. */
export function lockFile(fd: number): boolean {
  const result = call("mfd_lock_file", fd, 1);
  if (isErrno(result, "EAGAIN")) return false;
  checked(result, "locking a file");
  return true;
}

export function unlockFile(fd: number): void {
  checked(call("mfd_lock_file", fd, 0), "unlocking a file");
}
