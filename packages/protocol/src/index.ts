/**
 * Wire layouts: multifd packets, the main channel and the return path.
 *
 * Pure: bytes in, values out, and back; no socket, file or thread.
 */

export {
  checkDeviceStatePacket,
  DEVICE_STATE_PACKET_BYTES,
  type DeviceStatePacket,
  decodeDeviceStatePacket,
  decodePacketFlags,
  encodeDeviceStatePacket,
  PACKET_PROLOGUE_BYTES,
} from "./device-state-packet.js";
export {
  ChannelError,
  ConfigError,
  describeError,
  type ErrorDescription,
  MigrationError,
  ProtocolError,
  reviveError,
  SystemError,
} from "./errors.js";
export {
  bytes,
  cstring,
  type FixedField,
  type Layout,
  layout,
  type Mismatch,
  type NumberField,
  reserved,
  u8,
  u16be,
  u32be,
  u64be,
  type ValueField,
  type ValuesOf,
} from "./layout.js";
export {
  decodeMultifdInit,
  encodeMultifdInit,
  formatUuid,
  MULTIFD_INIT_BYTES,
  MULTIFD_MAGIC_BYTES,
  type MultifdInit,
  parseUuid,
} from "./multifd-init.js";
export {
  type Compression,
  methodFlag,
  methodName,
  PACKET_DEVICE_STATE,
  PACKET_METHOD_MASK,
  PACKET_METHOD_NONE,
  PACKET_METHOD_QATZIP,
  PACKET_METHOD_QPL,
  PACKET_METHOD_UADK,
  PACKET_METHOD_ZLIB,
  PACKET_METHOD_ZSTD,
  PACKET_SYNC,
} from "./packet-flags.js";
export { checkNoDuplicates, putPageOffsets, takePageOffsets } from "./page-offsets.js";
export {
  checkPageCounts,
  checkPayload,
  decodeRamPacketHeader,
  encodeRamPacketHeader,
  PACKET_GUEST_BYTES,
  PACKET_PAYLOAD_BYTES_MAX,
  packetPagesMax,
  RAM_PACKET_HEADER_BYTES,
  type RamPacketHeader,
  ramPacketBytes,
  ramPacketHeader,
} from "./ram-packet.js";
