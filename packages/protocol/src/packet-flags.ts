/**
 * Packet flags: the word at byte 8 of every multifd packet.
 *
 * Bit 0 closes a round, bits 1 to 5 name the compression method (values, not
 * combinable bits), bit 6 announces another header altogether. On QEMU's wire both ends are
 * told the method beforehand and it never changes within a migration; the flag
 * is there so that a mismatch is noticed. Between two of our own ends, after a hello
 * (hello.ts), each packet bears the method that it was compressed with.
 *
 * Source: QEMU 10.2, migration/multifd.h, MULTIFD_FLAG_*.
 */

/** The channel's round ends here, once this packet's pages are applied. */
export const PACKET_SYNC = 1;
export const PACKET_METHOD_NONE = 0;
export const PACKET_METHOD_ZLIB = 2;
export const PACKET_METHOD_ZSTD = 4;
export const PACKET_METHOD_QPL = 8;
export const PACKET_METHOD_UADK = 16;
export const PACKET_METHOD_QATZIP = 32;
/** Ours: all bits of the mask, as far as can be from the powers of two that QEMU gives out. */
export const PACKET_METHOD_LZ4 = 0x3e;
export const PACKET_METHOD_MASK = 0x3e;
/** The header is that of a device-state packet. */
export const PACKET_DEVICE_STATE = 64;
/** Flags a RAM packet may bear. */
export const PACKET_KNOWN_FLAGS = PACKET_SYNC | PACKET_METHOD_MASK;

/** Methods that QEMU speaks too, by the names that its multifd-compression takes. */
export type QemuCompression = "none" | "zlib" | "zstd";
/** Methods that a packet may bear. */
export type PacketMethod = QemuCompression | "lz4";
/** What an end of a migration is told: one method, or to choose for each packet. */
export type Compression = PacketMethod | "auto";

/** The method as it stands in a packet's flags. */
export function methodFlag(method: PacketMethod): number {
  switch (method) {
    case "none":
      return PACKET_METHOD_NONE;
    case "zlib":
      return PACKET_METHOD_ZLIB;
    case "zstd":
      return PACKET_METHOD_ZSTD;
    case "lz4":
      return PACKET_METHOD_LZ4;
  }
}

/** The method in a packet's flags in words, also where we do not speak it. */
export function methodName(flags: number): string {
  const method = flags & PACKET_METHOD_MASK;
  switch (method) {
    case PACKET_METHOD_NONE:
      return "none";
    case PACKET_METHOD_ZLIB:
      return "zlib";
    case PACKET_METHOD_ZSTD:
      return "zstd";
    case PACKET_METHOD_QPL:
      return "qpl";
    case PACKET_METHOD_UADK:
      return "uadk";
    case PACKET_METHOD_QATZIP:
      return "qatzip";
    case PACKET_METHOD_LZ4:
      return "lz4";
    default:
      return `an unknown method (flags 0x${flags.toString(16)})`;
  }
}
