/**
 * Parked element: a request that a device took off its queue and had not finished when the VM stopped.
 *
 * QEMU saves it as a C struct of its own, in the byte order and pointer size
 * of its host (64 bits, little-endian here): queue head, counts, 1024 guest
 * addresses each for what the device reads and writes, then as many host
 * buffers of which only the lengths mean anything. The struct is kept as it
 * came; `describeParkedElement` reads it.
 *
 * Source: QEMU 10.2, hw/virtio/virtio.c, VirtQueueElementOld, qemu_put_virtqueue_element().
 */

import type { ByteWriter } from "../byte-writer.js";
import { viewOf } from "../layout.js";
import type { StateReader } from "./state-reader.js";

export type ParkedElement = {
  /** Descriptors taken from a packed ring; null unless the device offers packed rings. */
  readonly descriptors: number | null;
  /** The struct, `PARKED_ELEMENT_BYTES` long. */
  readonly bytes: Uint8Array;
};

/** A piece of guest memory that a request is about. */
export type GuestBuffer = { readonly address: bigint; readonly bytes: bigint };

const BUFFERS_MAX = 1024;
const HEADER_BYTES = 16;
const ADDRESSES_BYTES = 8 * BUFFERS_MAX;
const HOST_BUFFERS_BYTES = 16 * BUFFERS_MAX;
export const PARKED_ELEMENT_BYTES = HEADER_BYTES + 2 * ADDRESSES_BYTES + 2 * HOST_BUFFERS_BYTES;

/** @param packed  Whether the device offers packed rings, taken by the guest or not. */
export function readParkedElement(reader: StateReader, packed: boolean): ParkedElement {
  const what = "parked request";
  const descriptors = packed ? reader.u32(what) : null;
  return { descriptors, bytes: reader.bytes(PARKED_ELEMENT_BYTES, what) };
}

export function writeParkedElement(out: ByteWriter, element: ParkedElement): void {
  if (element.descriptors !== null) out.u32(element.descriptors);
  out.bytes(element.bytes);
}

/**
 * What a parked request is about.
 *
 * @returns Its head's index in the descriptor table, and the guest memory that the device was to read and to write;
 *   null if its counts exceed the struct, for then it is damaged.
 */
export function describeParkedElement(
  element: ParkedElement,
): { readonly head: number; readonly toRead: GuestBuffer[]; readonly toWrite: GuestBuffer[] } | null {
  const view = viewOf(element.bytes);
  const [head, readCount, writeCount] = [0, 4, 8].map((at) => view.getUint32(at, true)) as [number, number, number];
  if (readCount > BUFFERS_MAX || writeCount > BUFFERS_MAX) return null;
  const buffers = (count: number, addresses: number, hostBuffers: number): GuestBuffer[] =>
    Array.from({ length: count }, (_, i) => ({
      address: view.getBigUint64(addresses + 8 * i, true),
      bytes: view.getBigUint64(hostBuffers + 16 * i + 8, true),
    }));
  const writeAddresses = HEADER_BYTES;
  const readAddresses = writeAddresses + ADDRESSES_BYTES;
  const writeBuffers = readAddresses + ADDRESSES_BYTES;
  const readBuffers = writeBuffers + HOST_BUFFERS_BYTES;
  return {
    head,
    toRead: buffers(readCount, readAddresses, readBuffers),
    toWrite: buffers(writeCount, writeAddresses, writeBuffers),
  };
}
