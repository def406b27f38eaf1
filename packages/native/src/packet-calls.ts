/**
 * Packet calls: two into C per packet, sending or receiving. The hot path.
 *
 * All block the calling thread, which is a channel's own; a `shutdownSocket`
 * from another thread ends them with CHANNEL_BROKEN, CHANNEL_CUT or a clean end.
 */
import { call } from "./library.js";
import { checked } from "./native-result.js";
import type { PacketBlock } from "./packet-block.js";

/**
 * Reads the listed pages from the block's file, splits them into normal and zero pages (order kept), and
 * compresses the normal ones where a codec is set; zlib's levels 1 to 3 have what nothing compresses last among
 * them. Sets `normalPages`, `zeroPages` and `payloadBytes`.
 *
 * @param detectZero  False leaves every page normal, and in its place.
 * @returns Bytes of payload.
 * @throws {SystemError} what the file answers.
 */
export function preparePacket(packet: PacketBlock, detectZero: boolean): number {
  return checked(call("mfd_prepare", packet.bytes, detectZero ? 1 : 0), "preparing a packet");
}

/**
 * Sends the header, then the payload that was prepared.
 *
 * @returns Bytes written.
 * @throws {ChannelError} CHANNEL_BROKEN, CHANNEL_TIMEOUT.
 */
export function sendPacket(packet: PacketBlock): number {
  return checked(call("mfd_send", packet.bytes), "sending a packet");
}

/**
 * Receives a header, as `headerBytes` and `shortHeader` say.
 *
 * @returns Bytes received; 0 at a clean end of the stream.
 * @throws {ChannelError} CHANNEL_CUT, CHANNEL_BROKEN, CHANNEL_TIMEOUT.
 */
export function receiveHeader(packet: PacketBlock): number {
  return checked(call("mfd_receive_header", packet.bytes), "receiving a packet header");
}

/**
 * Receives `payloadBytes`, decodes them and places the normal pages. Nothing is placed of a payload that does
 * not decode to exactly its pages; without a codec a cut stream may leave some of them written.
 *
 * @returns Bytes received; 0, reading nothing, for a packet without normal pages.
 * @throws {ProtocolError} PAYLOAD_CORRUPT, PAYLOAD_TOO_LONG, PAYLOAD_TOO_SHORT, PAYLOAD_STREAM_ENDED.
 * @throws {ChannelError} CHANNEL_CUT, CHANNEL_BROKEN, CHANNEL_TIMEOUT.
 * @throws {SystemError} SYSTEM_ENOSPC and whatever else the file answers.
 */
export function receivePages(packet: PacketBlock): number {
  return checked(call("mfd_receive_pages", packet.bytes), "receiving a packet's pages");
}

/** Overwrites `pages[0 .. zeroPages)` of the target with zeros; the list starts at 0 here. */
export function clearPages(packet: PacketBlock): void {
  checked(call("mfd_clear_pages", packet.bytes), "clearing zero pages");
}

/**
 * Overwrites `pages[0 .. normalPages)` with `payload`, page after page; `payloadBytes` must be their size. With a codec
 * set the payload is decoded first.
 *
 * @throws {ProtocolError} PAYLOAD_CORRUPT, PAYLOAD_TOO_LONG, PAYLOAD_TOO_SHORT, of what does not decode to exactly the pages.
 */
export function placePages(packet: PacketBlock): void {
  checked(call("mfd_place_pages", packet.bytes), "placing pages");
}

/**
 * Overwrites `pages[0 .. normalPages)` of the target with the pages that were prepared; zero pages are not touched.
 *
 * @throws {SystemError} SYSTEM_ENOSPC and whatever else the file answers.
 */
export function placePrepared(packet: PacketBlock): void {
  checked(call("mfd_place_prepared", packet.bytes), "placing pages");
}
