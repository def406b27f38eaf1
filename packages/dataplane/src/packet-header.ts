/**
 * Packet header: a packet block's `header` as a destination takes it, for whoever sends.
 *
 * Hot path, once per packet. Slots that name no page are zero, as QEMU since 9.2
 * leaves them: what an earlier packet left there is nobody's business.
 */
import type { PacketBlock } from "@multifd/native";
import {
  encodeRamPacketHeader,
  PACKET_SYNC,
  putPageOffsets,
  RAM_PACKET_HEADER_BYTES,
  type RamPacketHeader,
} from "@multifd/protocol";

/** @param pages  Page indexes, normal pages first, then zero pages, from `from` on. */
export function putRamHeader(packet: PacketBlock, header: RamPacketHeader, pages: Uint32Array, from: number): void {
  const count = header.normalPages + header.zeroPages;
  encodeRamPacketHeader(packet.headerView, 0, header);
  putPageOffsets(packet.headerView, RAM_PACKET_HEADER_BYTES, pages, from, count, packet.pageBytes);
  packet.header.fill(0, RAM_PACKET_HEADER_BYTES + 8 * count, packet.headerBytes);
}

/** Makes the block a SYNC: header only, everything else zero. */
export function putSyncHeader(packet: PacketBlock, packetNumber: number): void {
  packet.header.fill(0, 0, packet.headerBytes);
  encodeRamPacketHeader(packet.headerView, 0, {
    flags: PACKET_SYNC,
    pagesMax: 0,
    normalPages: 0,
    payloadBytes: 0,
    packetNumber,
    zeroPages: 0,
    ramBlock: "",
  });
  packet.normalPages = 0;
  packet.zeroPages = 0;
  packet.payloadBytes = 0;
  packet.codec = 0;
}
