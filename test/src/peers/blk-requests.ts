/** Virtio-blk requests of a guest: sectors read and written through a virtqueue. Source: virtio 1.3, 5.2.6. */
import type { DriverQueue, GuestMemory } from "./virtio-guest.js";

const READ = 0;
const WRITE = 1;
const HEAD_BYTES = 16;

export const SECTOR_BYTES = 512;

/** Places of a request's fixed parts in guest memory. */
export type RequestPlace = { readonly head: number; readonly status: number };

/** Makes a request available; the answer is the queue's next. @returns the chain's head. */
export function submitBlk(
  memory: GuestMemory,
  queue: DriverQueue,
  place: RequestPlace,
  request: { readonly kind: "read" | "write"; readonly sector: number; readonly data: number; readonly bytes: number },
): number {
  const head = Buffer.alloc(HEAD_BYTES);
  head.writeUInt32LE(request.kind === "read" ? READ : WRITE, 0);
  head.writeBigUInt64LE(BigInt(request.sector), 8);
  memory.write(place.head, head);
  const data = [request.data, request.bytes] as const;
  const status = [place.status, 1] as const;
  return request.kind === "read"
    ? queue.submit({ out: [[place.head, HEAD_BYTES]], in: [data, status] })
    : queue.submit({ out: [[place.head, HEAD_BYTES], data], in: [status] });
}
