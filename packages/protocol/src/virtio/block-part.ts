/**
 * Block part: what virtio-blk saves beside its queues.
 *
 *   { 1 [queue] parked request }… │ 0
 *
 * Requests are parked when the disk failed and the VM stopped on it; as a rule there are none.
 *
 * Source: QEMU 10.2, hw/block/virtio-blk.c, virtio_blk_save_device().
 */

import type { ByteWriter } from "../byte-writer.js";
import { type ParkedElement, readParkedElement, writeParkedElement } from "./parked-element.js";
import type { StateReader } from "./state-reader.js";

export type BlockRequest = ParkedElement & {
  /** Which queue it came from; null of a device with one queue. */
  readonly queue: number | null;
};

export type BlockPart = { readonly kind: "block"; readonly requests: readonly BlockRequest[] };

/** @param packed  Whether the device offers packed rings. */
export function readBlockPart(reader: StateReader, queueCount: number, packed: boolean): BlockPart {
  const requests: BlockRequest[] = [];
  // Ends: each request takes thousands of the section's bytes.
  while (reader.flag("parked requests")) {
    const queue = queueCount > 1 ? reader.u32("queue of a parked request") : null;
    requests.push({ queue, ...readParkedElement(reader, packed) });
  }
  return { kind: "block", requests };
}

export function writeBlockPart(out: ByteWriter, part: BlockPart): void {
  for (const request of part.requests) {
    out.u8(1);
    if (request.queue !== null) out.u32(request.queue);
    writeParkedElement(out, request);
  }
  out.u8(0);
}
