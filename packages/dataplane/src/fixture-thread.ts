/**
 * Test fixture: a thread that does one channel's part, for real or in miniature, and answers with what came of it.
 */
import { parentPort, workerData } from "node:worker_threads";
import type { ReceiveTask, RelayReceiveTask, RelaySendTask, SendTask } from "./messages.js";
import { CLAIM, PacketRing } from "./packet-ring.js";
import { runReceiveChannel } from "./receive-channel.js";
import { runRelayReceive } from "./relay-receive.js";
import { runRelaySend } from "./relay-send.js";
import { runSendChannel } from "./send-channel.js";
import { SyncBarrier } from "./sync-barrier.js";

/** What a thread is told to do. */
export type ThreadJob =
  | { readonly kind: "send"; readonly task: SendTask }
  | { readonly kind: "receive"; readonly task: ReceiveTask }
  | { readonly kind: "relay-receive"; readonly task: RelayReceiveTask }
  | { readonly kind: "relay-send"; readonly task: RelaySendTask }
  | { readonly kind: "claim"; readonly ring: SharedArrayBuffer; readonly pagesMax: number }
  | {
      readonly kind: "arrive";
      readonly barrier: SharedArrayBuffer;
      readonly channels: number;
      readonly channel: number;
      readonly gate: SharedArrayBuffer;
    };

/** A packet as a claimer found it. */
export type ClaimedPacket = { readonly round: number; readonly block: number; readonly pages: readonly number[] };

/** Takes packets as a sending channel does, and remembers in which round it took each. */
function claimAll(ring: PacketRing, pagesMax: number): ClaimedPacket[] {
  const claimed: ClaimedPacket[] = [];
  const packet = { kind: 0, block: 0, count: 0 };
  const pages = new Uint32Array(pagesMax);
  for (let round = 1; ring.awaitRound(round); round++) {
    for (;;) {
      const number = ring.claim();
      if (number === CLAIM.giveUp) return claimed;
      if (number === CLAIM.roundOver) break;
      ring.take(number, packet, pages);
      claimed.push({ round, block: packet.block, pages: [...pages.subarray(0, packet.count)] });
      ring.markSent();
    }
    ring.arrive();
  }
  return claimed;
}

/** Passes one SYNC after the other until told to give up; answers what the gate showed behind each. */
function passAll(barrier: SyncBarrier, channel: number, gate: Int32Array): number[] {
  const seen: number[] = [];
  while (seen.length < 100 && barrier.arrive(channel)) seen.push(Atomics.load(gate, 0));
  return seen;
}

function run(job: ThreadJob): unknown {
  switch (job.kind) {
    case "send":
      return runSendChannel(job.task);
    case "receive":
      return runReceiveChannel(job.task);
    case "relay-receive":
      return runRelayReceive(job.task);
    case "relay-send":
      return runRelaySend(job.task);
    case "claim":
      return claimAll(new PacketRing(job.pagesMax, job.ring), job.pagesMax);
    case "arrive":
      return passAll(new SyncBarrier(job.channels, job.barrier), job.channel, new Int32Array(job.gate));
  }
}

parentPort?.postMessage(run(workerData as ThreadJob));
