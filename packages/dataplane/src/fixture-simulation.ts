/**
 * Simulation: a round of packets over channels, CPUs and a link, in time that is only counted.
 *
 *   claim ─▶ prepare ─▶ send ═▶ socket buffer ═▶ link ═▶ receive ─▶ decode and place
 *   (pacer)   (CPU)    (blocks while it is full)  (shared)            (CPU)
 *
 * All that goes on at once shares the CPUs, and the link, in equal parts. Between two
 * events everything flows steadily, so the clock jumps from event to event: exact, and the
 * same every time. The pacer is the engine's, as far as channels feel it.
 */
import { PACKET_GUEST_BYTES } from "@multifd/protocol";

/** What a method costs for one kind of pages, in ms of CPU per packet of 512 KiB, and what of it goes over the wire. */
export type PacketCost = { readonly codeMs: number; readonly decodeMs: number; readonly ratio: number };

export type Machine = {
  readonly channels: number;
  readonly cores: number;
  /** Of the destination; 0 where both ends share `cores`. */
  readonly destinationCores: number;
  /** Per packet: to read it, and to place it. */
  readonly readMs: number;
  readonly placeMs: number;
};

export type Link = {
  readonly mibPerSecond: number;
  /** Per channel: what lies between the two ends before send blocks. */
  readonly bufferMib: number;
  /** What the source allows itself, over all channels; none where it is left out. */
  readonly limitMibPerSecond?: number;
};

/** What a channel meets: it asks before each packet, and tells after it. */
export type Chooser = {
  method(channel: number): number;
  /** @returns CPU time that a sample takes, 0 without one. */
  sent(channel: number, packet: SentPacket): number;
};

export type SentPacket = {
  readonly method: number;
  readonly index: number;
  readonly nowMs: number;
  readonly prepareMs: number;
  readonly prepareCpuMs: number;
  /** What the channel waited for it, held back by a limit. */
  readonly heldMs: number;
  readonly msPerWireByte: number;
  readonly wireBytes: number;
};

type Source = { state: "claim" | "prepare" | "send" | "sample" | "done"; left: number };
type Wire = { left: number; readonly placeMs: number };

type ChannelState = {
  readonly source: Source;
  /** In the socket, the first on its way. */
  readonly wires: Wire[];
  /** CPU time left to the destination's packet in hand; 0 while it receives. */
  placing: number;
  packet: { index: number; method: number; askedMs: number; claimedMs: number; cpuMs: number; wireBytes: number };
};

const PACKET_MIB = PACKET_GUEST_BYTES / 2 ** 20;
const BURST_MS = 50;
const WAKE_UP_MS = 10;
const NOTHING = 1e-9;

/**
 * Moves packets.
 *
 * @param costOf  Of a packet, by a method.
 * @param linkAt  The link when so many packets have been claimed.
 * @returns milliseconds until the last one is placed.
 */
export function simulate(
  packets: number,
  machine: Machine,
  linkAt: (packet: number) => Link,
  costOf: (packet: number, method: number) => PacketCost,
  chooser: Chooser,
): number {
  const channels = Array.from(
    { length: machine.channels },
    (): ChannelState => ({
      source: { state: "claim", left: 0 },
      wires: [],
      placing: 0,
      packet: { index: -1, method: 0, askedMs: 0, claimedMs: 0, cpuMs: 0, wireBytes: 0 },
    }),
  );
  let nowMs = 0;
  let claimed = 0;
  let published = 0;
  let outstanding = 0;
  let grantedMib = 0;
  let grantedAtMs = 0;
  let writtenMib = 0;

  const publish = () => {
    const limit = linkAt(claimed).limitMibPerSecond;
    if (limit === undefined) {
      published = packets;
      return;
    }
    const burst = Math.max((BURST_MS * limit) / 1000, PACKET_MIB);
    grantedMib = Math.min(grantedMib + ((nowMs - grantedAtMs) * limit) / 1000, writtenMib + burst);
    grantedAtMs = nowMs;
    const allowed = Math.floor((grantedMib - writtenMib) / PACKET_MIB + NOTHING) - outstanding;
    const more = Math.max(0, Math.min(allowed, packets - published));
    published += more;
    outstanding += more;
  };

  /** Does what takes no time; true if anything was done. */
  const settle = (channel: ChannelState, at: number): boolean => {
    const { source, wires } = channel;
    const link = linkAt(claimed);
    let isMoved = false;
    if (channel.placing <= NOTHING && wires.length > 0 && wires[0]!.left <= NOTHING) {
      channel.placing = wires.shift()!.placeMs;
      isMoved = true;
    }
    switch (source.state) {
      case "claim": {
        if (claimed === packets) source.state = "done";
        if (claimed >= published) return isMoved;
        const index = claimed++;
        publish();
        const method = chooser.method(at);
        const { codeMs } = costOf(index, method);
        const cpuMs = machine.readMs + codeMs;
        channel.packet = { ...channel.packet, index, method, claimedMs: nowMs, cpuMs, wireBytes: 0 };
        source.state = "prepare";
        source.left = cpuMs;
        return true;
      }
      case "prepare": {
        if (source.left > NOTHING) return isMoved;
        const { index, method } = channel.packet;
        const { ratio, decodeMs } = costOf(index, method);
        channel.packet.wireBytes = ratio * PACKET_GUEST_BYTES;
        wires.push({ left: ratio * PACKET_MIB, placeMs: machine.placeMs + decodeMs });
        source.state = "send";
        preparedMs.set(channel, nowMs);
        return true;
      }
      case "send": {
        if (backlog(channel) > link.bufferMib + NOTHING) return isMoved;
        const { index, method, askedMs, claimedMs, cpuMs, wireBytes } = channel.packet;
        writtenMib += wireBytes / 2 ** 20;
        if (link.limitMibPerSecond !== undefined) outstanding--;
        const prepareMs = preparedMs.get(channel)! - claimedMs;
        const limit = link.limitMibPerSecond;
        const heldMs = limit === undefined ? 0 : claimedMs - askedMs;
        const msPerWireByte = limit === undefined ? 0 : 1000 / limit / 2 ** 20;
        source.left = chooser.sent(at, {
          method,
          index,
          nowMs,
          prepareMs,
          prepareCpuMs: cpuMs,
          heldMs,
          msPerWireByte,
          wireBytes,
        });
        source.state = "sample";
        return true;
      }
      case "sample":
        if (source.left > NOTHING) return isMoved;
        source.state = "claim";
        channel.packet.askedMs = nowMs;
        return true;
      case "done":
        return isMoved;
    }
  };
  const preparedMs = new Map<ChannelState, number>();

  publish();
  for (;;) {
    for (let isMoved = true; isMoved; ) {
      isMoved = false;
      for (const [at, channel] of channels.entries()) isMoved = settle(channel, at) || isMoved;
    }
    if (
      channels.every(
        ({ source, wires, placing }) => source.state === "done" && wires.length === 0 && placing <= NOTHING,
      )
    )
      return nowMs;

    const link = linkAt(claimed);
    const coding = channels.filter(
      ({ source: { state, left } }) => (state === "prepare" || state === "sample") && left > 0,
    );
    const placing = channels.filter((channel) => channel.placing > NOTHING);
    const sending = channels.filter(({ wires, placing: left }) => left <= NOTHING && wires.length > 0);
    const { cores, destinationCores } = machine;
    const together = destinationCores === 0 ? coding.length + placing.length : coding.length;
    const codingRate = Math.min(1, cores / together);
    const placingRate = destinationCores === 0 ? codingRate : Math.min(1, destinationCores / placing.length);
    const linkRate = link.mibPerSecond / 1000 / sending.length;
    let stepMs = Number.POSITIVE_INFINITY;
    for (const { source } of coding) stepMs = Math.min(stepMs, source.left / codingRate);
    for (const channel of placing) stepMs = Math.min(stepMs, channel.placing / placingRate);
    for (const channel of sending) {
      stepMs = Math.min(stepMs, channel.wires[0]!.left / linkRate);
      const over = backlog(channel) - link.bufferMib;
      if (channel.source.state === "send" && over > 0) stepMs = Math.min(stepMs, over / linkRate);
    }
    const wakeMs = grantedAtMs + WAKE_UP_MS - nowMs;
    const isPaced = link.limitMibPerSecond !== undefined && published < packets;
    if (isPaced) stepMs = Math.min(stepMs, Math.max(0, wakeMs));
    nowMs += stepMs;
    for (const { source } of coding) source.left -= stepMs * codingRate;
    for (const channel of placing) channel.placing = Math.max(0, channel.placing - stepMs * placingRate);
    for (const channel of sending) channel.wires[0]!.left -= stepMs * linkRate;
    if (isPaced && stepMs >= wakeMs - NOTHING) publish();
  }
}

function backlog({ wires }: ChannelState): number {
  return wires.reduce((sum, { left }) => sum + left, 0);
}
