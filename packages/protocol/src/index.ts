/**
 * Wire layouts: multifd packets, the main channel and the return path; Cloud Hypervisor's migration messages.
 *
 * Pure: bytes in, values out, and back; no socket, file or thread.
 */

export { type ByteSource, ChunkSource, type SeekableSource } from "./byte-source.js";
export { CONFIG_BYTES_MAX, composeConfig, vmConfigOf } from "./cloud-hypervisor/configuration-text.js";
export {
  CONNECTIONS_MAX,
  ERAS,
  type Era,
  type EraName,
  eraOfRelease,
  knowsCommand,
  takesVersion,
} from "./cloud-hypervisor/eras.js";
export { type MemoryMapping, readMemoryMappings } from "./cloud-hypervisor/memory-configuration.js";
export { checkRangeTableLength, type MemoryRange, MemoryRangeTable } from "./cloud-hypervisor/memory-range-table.js";
export {
  CONNECTION_ROLE,
  CONNECTION_ROLE_BYTES,
  type CommandName,
  commandName,
  encodeConnectionRole,
  encodeRequest,
  encodeResponse,
  MEMORY_FD_BYTES,
  MEMORY_FD_TEXT_BYTES,
  migrationRequest,
  PAGE_FAULT_BYTES,
  REQUEST_BYTES,
  RESPONSE_BYTES,
  takeResponse,
} from "./cloud-hypervisor/message.js";
export { appendDirtyBitmap, CHUNK_BYTES, partitionRanges } from "./cloud-hypervisor/range-rules.js";
export { nextReceiverState, type ReceiverState } from "./cloud-hypervisor/receiver-states.js";
export { readSavedMemory, type SavedMapping, type SavedMemory, unsavedRam } from "./cloud-hypervisor/saved-memory.js";
export { findStateNode, readStateTree, STATE_BYTES_MAX, type StateNode } from "./cloud-hypervisor/state-tree.js";
export {
  COMPRESSED_SNAPSHOT_MAGIC_BYTES,
  FRAME_GUEST_BYTES,
  FRAME_KIND,
  FRAME_PAYLOAD_BYTES_MAX,
  FRAME_UNIT_BYTES,
  frameHeader,
  framePagesMax,
  PAGE_MAP_PIECE_BYTES,
  SNAPSHOT_CRC_AT,
  snapshotFileHeader,
  snapshotIndexHeader,
  snapshotTrailer,
} from "./compressed-snapshot.js";
export { addCapability, dropCapability } from "./configuration-capability.js";
export { decodeDeviceSections } from "./device-decoder.js";
export { type DeviceSection, walkDeviceSections } from "./device-sections.js";
export {
  DEVICE_STATE_CHUNK_BYTES,
  type DeviceStateChunk,
  decodeChunk,
  encodeChunkHead,
} from "./device-state-chunk.js";
export {
  checkDeviceStatePacket,
  DEVICE_STATE_PACKET_BYTES,
  type DeviceStatePacket,
  decodeDeviceStatePacket,
  decodePacketFlags,
  encodeDeviceStatePacket,
} from "./device-state-packet.js";
export type {
  DecodedDevice,
  DecodedDevices,
  DecodedEntry,
  DecodedField,
  DecodedState,
  FieldContent,
  Unaccounted,
} from "./device-tree.js";
export {
  ChannelError,
  ConfigError,
  describeError,
  type ErrorDescription,
  MigrationError,
  ProtocolError,
  placeError,
  reviveError,
  SystemError,
} from "./errors.js";
export type { Scalar } from "./field-values.js";
export { encodeHello, HELLO_PING, type Hello } from "./hello.js";
export { JsonMembers, type JsonValue, parseJsonText } from "./json-text.js";
export { type Layout, layout, type ValuesOf } from "./layout.js";
export {
  expectsSwitchoverStart,
  type MachineVersion,
  machineTypeVersion,
  takesZeroPagesInPackets,
  usesPerRoundSync,
} from "./machine-type.js";
export {
  DEFAULT_LIMITS,
  type MainEvent,
  type MainStreamLimits,
  type RamBlockListEntry,
  type RamPhase,
} from "./main-events.js";
export {
  CAPABILITY_IGNORE_SHARED,
  CAPABILITY_MAPPED_RAM,
  emptyVmDescription,
  encodeCommand,
  encodeConfiguration,
  encodeFileHeader,
  encodeFlush,
  encodePage,
  encodeRamComplete,
  encodeRamPart,
  encodeRamSectionEnd,
  encodeRamStart,
  encodeStreamEnd,
  encodeZeroPage,
  encodeZeroPages,
  MAIN_MAGIC_BYTES,
  type RamBlockEntry,
  type StreamCommand,
  type StreamConfiguration,
} from "./main-stream.js";
export { decodeMainStream, decodeMappedRamStream } from "./main-stream-decoder.js";
export {
  encodeMappedRamStart,
  type FilePiece,
  type MappedRamPlace,
  mappedBitmapBytes,
  placeMappedRam,
} from "./mapped-ram.js";
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
  PACKET_DEVICE_STATE,
  PACKET_METHOD_MASK,
  PACKET_SYNC,
  type PacketMethod,
  type QemuCompression,
} from "./packet-flags.js";
export { checkNoDuplicates, putPageOffsets, takePageOffsets } from "./page-offsets.js";
export {
  checkPageCounts,
  checkPayload,
  decodeRamPacketHeader,
  encodeRamPacketHeader,
  PACKET_GUEST_BYTES,
  packetPagesMax,
  RAM_PACKET_HEADER_BYTES,
  type RamPacketHeader,
  ramPacketBytes,
} from "./ram-packet.js";
export { RAM_RECORD_BYTES } from "./ram-section-decoder.js";
export {
  decodeReturnPath,
  encodeHelloAnswer,
  encodePong,
  encodeShut,
  encodeSwitchoverAck,
  type ReturnPathEvent,
} from "./return-path.js";
export { TappedSource } from "./tapped-source.js";
export { type BackendState, joinBackendState } from "./virtio/backend-state.js";
export { checkVirtioDevice, type DestinationFacts } from "./virtio/check-device.js";
export type { GuestMemory } from "./virtio/check-rings.js";
export type { DevicePart, VirtioDeviceType } from "./virtio/device-types.js";
export { featureNames, guestFeatures, statusNames } from "./virtio/feature-names.js";
export { describeParkedElement, type GuestBuffer, type ParkedElement } from "./virtio/parked-element.js";
export { type Ring, type RingArea, type RingMemory, virtioRings } from "./virtio/rings.js";
export { decodeVirtioDevice, encodeVirtioDevice, type VirtioDevice, type VirtioQueue } from "./virtio/virtio-device.js";
export {
  type DescriptionDetail,
  type DeviceDescription,
  type FieldDescription,
  parseVmDescription,
  type StateDescription,
  type VmDescription,
} from "./vm-description.js";
export {
  bits64le,
  type FixedField,
  type Mismatch,
  type NumberField,
  reserved,
  u16le,
  u32le,
  u64le,
  type ValueField,
} from "./wire-fields.js";
