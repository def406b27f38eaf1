/**
 * Page offsets: the array behind a RAM packet's header, 8 bytes per page.
 *
 * On the wire a page is a byte offset into its RAM block; everywhere else it
 * is a page index. This is the hot path: plain loops over typed arrays, two
 * 32-bit accesses instead of one bigint, nothing allocated unless it throws.
 * Page indexes are below 2^32, which the block list guarantees.
 *
 * QEMU checks only that an offset lies inside the block. We also refuse
 * unaligned offsets and pages named twice, neither of which a sane source sends.
 */

import { ProtocolError } from "./errors.js";
import { hex64 } from "./wire-fields.js";

/**
 * Writes `count` page indexes, from `pages[from]` on, as byte offsets at `at`.
 * Slots behind them are the caller's to clear.
 */
export function putPageOffsets(
  view: DataView,
  at: number,
  pages: Uint32Array,
  from: number,
  count: number,
  pageBytes: number,
): void {
  let slot = at;
  for (let i = from; i < from + count; i++, slot += 8) {
    const offset = pages[i]! * pageBytes; // exact: below 2^53
    view.setUint32(slot, offset / 2 ** 32);
    view.setUint32(slot + 4, offset); // stores modulo 2^32
  }
}

/**
 * Reads `count` byte offsets at `at` as page indexes into `out`, from `outAt` on.
 *
 * @param pageBytes    A power of two.
 * @param lengthBytes  Of the RAM block, a multiple of `pageBytes`.
 * @param blockName    For messages only.
 * @throws {ProtocolError} MULTIFD_OFFSET_UNALIGNED or MULTIFD_OFFSET_OUTSIDE; `out` then holds the pages before.
 */
export function takePageOffsets(
  view: DataView,
  at: number,
  count: number,
  pageBytes: number,
  lengthBytes: number,
  blockName: string,
  out: Uint32Array,
  outAt: number,
): void {
  const unaligned = pageBytes - 1;
  const last = lengthBytes - pageBytes;
  let slot = at;
  for (let i = 0; i < count; i++, slot += 8) {
    const low = view.getUint32(slot + 4);
    const offset = view.getUint32(slot) * 2 ** 32 + low; // rounded above 2^53, and then outside anyway
    if (offset > last || low & unaligned) throw refusedOffset(view, slot, pageBytes, lengthBytes, blockName);
    out[outAt + i] = offset / pageBytes;
  }
}

function refusedOffset(view: DataView, slot: number, pageBytes: number, lengthBytes: number, blockName: string): Error {
  const low = view.getUint32(slot + 4);
  const offset = hex64(view.getUint32(slot), low);
  if (low & (pageBytes - 1))
    return new ProtocolError(
      "MULTIFD_OFFSET_UNALIGNED",
      `page offset ${offset} in RAM block "${blockName}" is no multiple of the page size (${pageBytes} bytes); use the same guest page size on both sides`,
    );
  return new ProtocolError(
    "MULTIFD_OFFSET_OUTSIDE",
    `page offset ${offset} lies past the end of RAM block "${blockName}" (0x${lengthBytes.toString(16)} bytes); start both VMs with the same memory size`,
  );
}

/**
 * Refuses a packet that names a page twice, for then the order of its payload would decide.
 *
 * Ascending pages need one pass; anything else is sorted in `scratch`.
 *
 * @param scratch  At least `count` long; overwritten.
 * @throws {ProtocolError} MULTIFD_DUPLICATE_PAGE.
 */
export function checkNoDuplicates(pages: Uint32Array, count: number, scratch: Uint32Array): void {
  let ascending = true;
  for (let i = 1; i < count && ascending; i++) ascending = pages[i - 1]! < pages[i]!;
  if (ascending) return;
  const sorted = scratch.subarray(0, count);
  sorted.set(pages.subarray(0, count));
  sorted.sort();
  for (let i = 1; i < count; i++) {
    if (sorted[i] !== sorted[i - 1]) continue;
    const message = `page ${sorted[i]} is announced twice in one packet; the source is broken or the stream damaged`;
    throw new ProtocolError("MULTIFD_DUPLICATE_PAGE", message);
  }
}
