/**
 * RAM packet: the header that announces pages of one RAM block, at most 512 KiB of guest RAM.
 *
 *   320 bytes of fields │ 8 bytes per page slot: normal pages, then zero pages │ payload of the normal pages
 *
 * The header has its full length, all slots, whatever the number of pages. A
 * packet may also carry no page at all: a SYNC, or the leftover that sources
 * before 9.0 send behind one. Such packets may bear stale counts, names and
 * sizes from the packet before, so nothing of them is checked that is not used.
 *
 * Everything here runs per packet on the channel threads: no bigint, no log.
 * Messages name the packet's own facts; the caller adds channel and number.
 *
 * Source: QEMU 10.2, migration/multifd.h, MultiFDPacket_t; migration/multifd-nocomp.c, multifd_ram_unfill_packet().
 */

import { ProtocolError } from "./errors.js";
import { layout, type ValuesOf } from "./layout.js";
import { MULTIFD_MAGIC, MULTIFD_VERSION, WRONG_MAGIC, WRONG_VERSION } from "./multifd-init.js";
import {
  methodFlag,
  methodName,
  PACKET_KNOWN_FLAGS,
  PACKET_METHOD_MASK,
  PACKET_METHOD_NONE,
  type PacketMethod,
} from "./packet-flags.js";
import { cstring, reserved, u32be, u64be } from "./wire-fields.js";

/** Guest RAM that one packet may announce. */
export const PACKET_GUEST_BYTES = 524288;

/** Payload bytes a receiver of compressed packets has room for, in every QEMU. */
export const PACKET_PAYLOAD_BYTES_MAX = 1048576;

/** Header of a RAM packet; page offsets follow. */
export const ramPacketHeader = layout(
  "multifd RAM packet",
  {
    magic: u32be.equals(MULTIFD_MAGIC, WRONG_MAGIC),
    version: u32be.equals(MULTIFD_VERSION, WRONG_VERSION),
    flags: u32be,
    pagesMax: u32be, // wire: pages_alloc, capacity of the offset array
    normalPages: u32be, // pages with payload
    payloadBytes: u32be, // wire: next_packet_size; means nothing while normalPages is 0
    packetNumber: u64be,
    zeroPages: u32be, // 9.0 and later; reserved and zero before
    reserved: reserved(28), // sent as zeros, ignored on arrival
    ramBlock: cstring(256), // wire: ramblock
  },
  { size: 320 },
);

export const RAM_PACKET_HEADER_BYTES = ramPacketHeader.size;

export type RamPacketHeader = ValuesOf<typeof ramPacketHeader.fields>;

/** Page slots of a packet. */
export function packetPagesMax(pageBytes: number): number {
  return PACKET_GUEST_BYTES / pageBytes;
}

/** Bytes of a packet up to its payload: the header and all page slots. */
export function ramPacketBytes(pageBytes: number): number {
  return RAM_PACKET_HEADER_BYTES + 8 * packetPagesMax(pageBytes);
}

/** Writes the 320 bytes before the page offsets. */
export function encodeRamPacketHeader(view: DataView, at: number, header: RamPacketHeader): void {
  ramPacketHeader.encodeInto(view, at, header);
}

/**
 * Reads the 320 bytes before the page offsets; checks form only.
 *
 * @throws {ProtocolError} MULTIFD_MAGIC, MULTIFD_VERSION, WIRE_TRUNCATED, WIRE_UNTERMINATED or WIRE_TEXT.
 */
export function decodeRamPacketHeader(view: DataView, at: number): RamPacketHeader {
  return ramPacketHeader.decode(view, at);
}

/**
 * Checks a packet's page counts against its slots, in SYNC packets too.
 *
 * @param pagesMax  Slots the packet has: `packetPagesMax(pageBytes)`.
 * @throws {ProtocolError} MULTIFD_TOO_MANY_PAGES.
 */
export function checkPageCounts(packet: RamPacketHeader, pagesMax: number): void {
  const { pagesMax: claimed, normalPages, zeroPages } = packet;
  if (claimed > pagesMax) {
    const message = `the packet claims ${claimed} page slots, ${pagesMax} is the most; use the same guest page size on both sides`;
    throw new ProtocolError("MULTIFD_TOO_MANY_PAGES", message);
  }
  // Subtracted, not added: two counts near 2^32 must not add up to something small elsewhere.
  if (normalPages > claimed || zeroPages > claimed - normalPages) {
    const message = `the packet announces ${normalPages} normal and ${zeroPages} zero pages in ${claimed} page slots; the stream is damaged`;
    throw new ProtocolError("MULTIFD_TOO_MANY_PAGES", message);
  }
}

/**
 * Checks a packet's flags and announced size against what this migration uses.
 *
 * The method is compared only if the packet carries pages: a pure SYNC names
 * none. A size without normal pages is stale (sources before 8.2 leave it
 * standing) and announces nothing.
 *
 * @param packet   Its page counts are checked already.
 * @param methods  Those that a packet may bear; more than one after a hello only.
 * @returns Payload bytes that follow the page offsets.
 * @throws {ProtocolError} MULTIFD_FLAGS, MULTIFD_COMPRESSION or MULTIFD_PAYLOAD_SIZE.
 */
export function checkPayload(packet: RamPacketHeader, methods: readonly PacketMethod[], pageBytes: number): number {
  const { flags, normalPages, zeroPages, payloadBytes } = packet;
  if (flags & ~PACKET_KNOWN_FLAGS) {
    const message = `the packet's flags are 0x${flags.toString(16)}, of which 0x${PACKET_KNOWN_FLAGS.toString(16)} are known; the stream is damaged, or the source is newer than this program`;
    throw new ProtocolError("MULTIFD_FLAGS", message);
  }
  if (normalPages + zeroPages === 0) return 0;
  const bare = flags & PACKET_METHOD_MASK;
  if (!methods.some((method) => methodFlag(method) === bare)) throw wrongMethod(flags, methods);
  if (normalPages === 0) return 0;
  if (bare === PACKET_METHOD_NONE && payloadBytes !== normalPages * pageBytes) {
    const message = `the packet announces ${payloadBytes} payload bytes, ${normalPages} pages of ${pageBytes} bytes were due; use the same guest page size on both sides`;
    throw new ProtocolError("MULTIFD_PAYLOAD_SIZE", message);
  }
  if (payloadBytes === 0 || payloadBytes > PACKET_PAYLOAD_BYTES_MAX) {
    const message = `the packet announces ${payloadBytes} payload bytes for ${normalPages} pages, 1 to ${PACKET_PAYLOAD_BYTES_MAX} were due; the stream is damaged`;
    throw new ProtocolError("MULTIFD_PAYLOAD_SIZE", message);
  }
  return payloadBytes;
}

function wrongMethod(flags: number, methods: readonly PacketMethod[]): ProtocolError {
  const came = methodName(flags);
  const [method] = methods;
  const message =
    methods.length === 1
      ? `the packet is compressed with ${came}, this side expects ${method}; set multifd-compression to ${method} on the source, or to ${came} on the destination`
      : `the packet is compressed with ${came}, the hello named ${methods.join(", ")}; the source broke its word`;
  return new ProtocolError("MULTIFD_COMPRESSION", message);
}
