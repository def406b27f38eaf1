/**
 * Fresh pages: the fastest way into a RAM file that is still empty.
 *
 * Several channels that write one tmpfs file queue for its lock, spinning, while
 * the sender needs the core. Pages that the file lacks can be made through a
 * registered mapping instead (UFFDIO_COPY), without that lock and without
 * zeroing them first. bench/README.md has the figures.
 */
import { call } from "./library.js";
import type { Mapping } from "./mapping.js";

/**
 * Readies a mapping of a file for making pages.
 *
 * From then on the mapping is for that alone: whoever touches a page that the
 * file lacks waits for ever.
 *
 * @returns The descriptor that a packet's target names as `fresh`, the caller's to close before the mapping goes;
 *   null where the file (not on tmpfs) or the system cannot, and pwrite is the way.
 */
export function registerFresh(mapping: Mapping): number | null {
  const result = call("mfd_fresh_register", mapping.address, mapping.lengthBytes);
  return result < 0 ? null : result;
}
