/**
 * Shared words: the one map of the memory that coordinator and workers share.
 *
 * All are 32-bit integers used through Atomics (sequentially consistent), each
 * on a cache line of its own, so that the claim counter does not drag the others
 * along. What is written by one side only says so; the rest is read-modify-write.
 *
 * Waiting: whoever waits reads TURN (workers) or BELL (coordinator) first, then
 * looks at the state it wants, then waits for that word to change. A change
 * always comes before its TURN or BELL, so none can be slept through.
 */

const LINE_WORDS = 16;

/** Words of a source's ring. */
export const RING = {
  /** Raised by the coordinator after every change that a waiting worker may care for. */
  turn: 0 * LINE_WORDS,
  /** Raised by workers after every change that the coordinator may care for. */
  bell: 1 * LINE_WORDS,
  /** Next packet of the round to be claimed; one atomic add claims it. The coordinator sets it to 0 between rounds. */
  cursor: 2 * LINE_WORDS,
  /** Packets published in this round. Written by the coordinator, after the packet's slot. */
  published: 3 * LINE_WORDS,
  /** The round's number of packets once it is known, -1 before. Written by the coordinator. */
  total: 4 * LINE_WORDS,
  /** Rounds opened so far. Written by the coordinator, when every worker waits for it. */
  round: 5 * LINE_WORDS,
  /** Channels that have written this round's SYNC. */
  arrived: 6 * LINE_WORDS,
  /** QEMU's packet_num: one counter over all channels, SYNC packets included. */
  packetNumber: 7 * LINE_WORDS,
  /** 0 run, 1 end after the round, 2 give up at once. Written by the coordinator. */
  stop: 8 * LINE_WORDS,
  /** Packets of the round written to a socket. */
  sent: 9 * LINE_WORDS,
  words: 10 * LINE_WORDS,
} as const;

/** Words of a destination's barrier. */
export const BARRIER = {
  /** Raised by the coordinator after every change that a waiting worker may care for. */
  turn: 0 * LINE_WORDS,
  /** Raised by workers after every change that the coordinator may care for. */
  bell: 1 * LINE_WORDS,
  /** SYNC packets of each channel that may be passed. Written by the coordinator. */
  released: 2 * LINE_WORDS,
  /** 0 run, 2 give up at once. Written by the coordinator. */
  stop: 3 * LINE_WORDS,
  words: 4 * LINE_WORDS,
} as const;

/** Words per channel behind the barrier's own; each written by that channel's worker only, unless it says otherwise. */
export const BARRIER_CHANNEL = {
  /** SYNC packets met. */
  arrived: 0,
  /** Device-state packets handed over, before the SYNC that follows them. */
  deviceStates: 1,
  /** 1 once the stream has ended at a packet boundary. */
  ended: 2,
  /** Device-state packets that the coordinator has taken over, so that the next may be received. Written by it. */
  admitted: 3,
  words: LINE_WORDS,
} as const;

/** Words of a relay's slots. */
export const RELAY = {
  /** Raised by incoming channels with every slot filled, and by the coordinator: outgoing channels wait for it. */
  filled: 0 * LINE_WORDS,
  /** Raised by outgoing channels with every slot freed, and by the coordinator: incoming channels wait for it. */
  freed: 1 * LINE_WORDS,
  /** Raised by workers after every change that the coordinator may care for. */
  bell: 2 * LINE_WORDS,
  /** Rounds that every incoming channel has ended. Written by the coordinator. */
  closedRounds: 3 * LINE_WORDS,
  /** SYNC packets written by all outgoing channels together. */
  arrived: 4 * LINE_WORDS,
  /** As the ring's, of the packets that leave. */
  packetNumber: 5 * LINE_WORDS,
  /** 0 run, 2 give up at once. Written by the coordinator. */
  stop: 6 * LINE_WORDS,
  words: 7 * LINE_WORDS,
} as const;

export const STOP = { run: 0, end: 1, giveUp: 2 } as const;

/**
 * Per-channel counters, as Float64: written by that channel's worker only unless it says otherwise, read
 * for display, pacing and the choice of a method. A reader may be one packet behind, never torn: aligned
 * 64-bit stores are single on x86-64 and arm64. Exact once the worker has returned.
 */
export const COUNTER = {
  wireBytes: 0,
  normalPages: 1,
  zeroPages: 2,
  /** What preparing packets took, and what of that the thread was running; where methods are chosen from only. */
  prepareMs: 3,
  prepareCpuMs: 4,
  /** What was waited for packets that the bandwidth limit held back. */
  heldMs: 5,
  /** Channel 0's: the method that every channel's next packet gets. */
  method: 6,
  /** Channel 0's, written by the coordinator: what all channels may write per ms now, 0 for as much as they can. */
  limitBytesPerMs: 7,
  words: 8,
} as const;

/** One set of counters per channel, zeroed. */
export function createCounters(channels: number): SharedArrayBuffer {
  return new SharedArrayBuffer(channels * COUNTER.words * 8);
}

/** Tells channels that choose their method how much all of them may write. @param bytesPerSecond  0 for as much as they can. */
export function announceLimit(counters: SharedArrayBuffer, bytesPerSecond: number): void {
  new Float64Array(counters)[COUNTER.limitBytesPerMs] = bytesPerSecond / 1000;
}

export type ChannelTotals = { wireBytes: number; normalPages: number; zeroPages: number };

/** Sums the counters of all channels. */
export function sumCounters(counters: SharedArrayBuffer): ChannelTotals {
  const words = new Float64Array(counters);
  const totals = { wireBytes: 0, normalPages: 0, zeroPages: 0 };
  for (let at = 0; at < words.length; at += COUNTER.words) {
    totals.wireBytes += words[at + COUNTER.wireBytes]!;
    totals.normalPages += words[at + COUNTER.normalPages]!;
    totals.zeroPages += words[at + COUNTER.zeroPages]!;
  }
  return totals;
}

export type TimeTotals = { prepareMs: number; prepareCpuMs: number; heldMs: number };

/** Sums where the time of all channels went. */
export function sumTimes(counters: SharedArrayBuffer): TimeTotals {
  const words = new Float64Array(counters);
  const totals = { prepareMs: 0, prepareCpuMs: 0, heldMs: 0 };
  for (let at = 0; at < words.length; at += COUNTER.words) {
    totals.prepareMs += words[at + COUNTER.prepareMs]!;
    totals.prepareCpuMs += words[at + COUNTER.prepareCpuMs]!;
    totals.heldMs += words[at + COUNTER.heldMs]!;
  }
  return totals;
}
