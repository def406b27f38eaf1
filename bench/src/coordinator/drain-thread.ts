/**
 * Drain thread: a channel that claims packets and sends nothing.
 *
 * It copies each packet's page indexes out of the ring, as every channel does, and
 * arrives at the end of the round. It ends with the ring.
 */
import { workerData } from "node:worker_threads";
import { PacketRing } from "@multifd/dataplane";

export type DrainTask = { readonly ring: SharedArrayBuffer; readonly pagesMax: number };

const { ring: shared, pagesMax } = workerData as DrainTask;
const ring = new PacketRing(pagesMax, shared);
const packet = { kind: 0, block: 0, count: 0 };
const pages = new Uint32Array(pagesMax);

for (let round = 1; ring.awaitRound(round); round++) {
  for (let claimed = ring.claim(); claimed >= 0; claimed = ring.claim()) {
    ring.take(claimed, packet, pages);
    ring.markSent();
  }
  ring.arrive();
}
