/**
 * Packet walk: where the packets lie in a recorded channel, so that a test can spoil one field of one of them.
 *
 * Reads the fields at their places by hand: the code under test is not asked
 * where it would like to be hit.
 */
import type { Recording } from "../recorder.js";
import type { Patch } from "../replayer.js";

export const INIT_BYTES = 64;
export const HEADER_BYTES = 1344;
/** Places of the fields in a packet's header. */
export const FIELD = {
  magic: 0,
  version: 4,
  flags: 8,
  pagesMax: 12,
  normalPages: 16,
  payloadBytes: 20,
  zeroPages: 32,
  ramBlock: 64,
  offsets: 320,
} as const;

export type RecordedPacket = {
  readonly channel: number;
  readonly at: number;
  readonly flags: number;
  readonly normalPages: number;
  readonly zeroPages: number;
  /** Bytes behind the header; what the header announces without normal pages is stale. */
  readonly payloadBytes: number;
  readonly ramBlock: string;
};

/** All packets of a channel, in order. */
export function walkPackets(recording: Recording, channel: number): RecordedPacket[] {
  const bytes = Buffer.from(recording.channels[channel]!);
  const packets: RecordedPacket[] = [];
  for (let at = INIT_BYTES; at < bytes.length; at += HEADER_BYTES + packets.at(-1)!.payloadBytes) {
    const normalPages = bytes.readUInt32BE(at + FIELD.normalPages);
    const name = bytes.subarray(at + FIELD.ramBlock, at + FIELD.offsets);
    packets.push({
      channel,
      at,
      flags: bytes.readUInt32BE(at + FIELD.flags),
      normalPages,
      zeroPages: bytes.readUInt32BE(at + FIELD.zeroPages),
      payloadBytes: normalPages === 0 ? 0 : bytes.readUInt32BE(at + FIELD.payloadBytes),
      ramBlock: name.toString("latin1", 0, name.indexOf(0)),
    });
  }
  return packets;
}

/** The first packet on any channel that `fits`; there has to be one. */
export function findPacket(recording: Recording, fits: (packet: RecordedPacket) => boolean): RecordedPacket {
  for (const channel of recording.channels.keys()) {
    const found = walkPackets(recording, channel).find(fits);
    if (found !== undefined) return found;
  }
  throw new Error("the recording has no such packet");
}

/** Puts big-endian words in place of a packet's own. */
export function patchWords(packet: RecordedPacket, field: number, ...words: readonly number[]): Patch {
  const bytes = Buffer.alloc(4 * words.length);
  for (const [index, word] of words.entries()) bytes.writeUInt32BE(word >>> 0, 4 * index);
  return { stream: packet.channel, at: packet.at + field, bytes };
}

/** Puts bytes into a packet's payload. */
export function patchPayload(packet: RecordedPacket, at: number, bytes: Uint8Array): Patch {
  return { stream: packet.channel, at: packet.at + HEADER_BYTES + at, bytes };
}
