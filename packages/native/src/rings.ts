/**
 * Ring indexes and dirty logs in a mapping that another process uses at the same time.
 *
 * An index publishes the entries before it: loading and storing it here keeps
 * that order; the entries themselves go through `readMemory` and `writeMemory`.
 */
import { call } from "./library.js";
import type { Mapping } from "./mapping.js";
import { checked } from "./native-result.js";

/** @param offsetBytes  Even. */
export function loadIndex(mapping: Mapping, offsetBytes: number): number {
  const { address, lengthBytes } = mapping;
  return checked(call("mfd_load_index", address, lengthBytes, offsetBytes), "loading a ring's index");
}

/** @param value  0…65535; everything written to the mapping before is seen before it. */
export function storeIndex(mapping: Mapping, offsetBytes: number, value: number): void {
  const { address, lengthBytes } = mapping;
  checked(call("mfd_store_index", address, lengthBytes, offsetBytes, value), "storing a ring's index");
}

/**
 * Sets the bits of `count` pages in a dirty log, each by an atomic OR.
 *
 * Call it after writing the pages: who takes the bit reads the page then.
 */
export function markPages(log: Mapping, firstPage: number, count: number): void {
  checked(
    call("mfd_mark_pages", log.address, log.lengthBytes, firstPage, count),
    `marking ${count} pages from ${firstPage} in a log of ${log.lengthBytes} bytes`,
  );
}
