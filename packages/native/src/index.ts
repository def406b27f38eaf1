/**
 * Typed bindings to the C library: every call of native/include/multifd.h, and typed errors for what it refuses.
 */
export {
  type AttachAnswer,
  type AttachStep,
  attachToProcess,
  enableTracking,
  preloadLibrary,
  registerIn,
  unregisterIn,
} from "./attached-tracking.js";
export { type CodecMethod, createCompressor, createDecompressor, freeCodec, ZSTD_STORE_LEVEL } from "./codecs.js";
export { receiveDescriptors, sendDescriptors } from "./descriptors.js";
export {
  exchangeBitmap,
  exchangeMappedBitmap,
  harvestDirty,
  probeTracking,
  type TrackingProbe,
  trackRegister,
} from "./dirty-tracking.js";
export { createEvent, createPipe, signalEvent, takeEvent } from "./events.js";
export { nativeFeatures, threadCpuMs } from "./features.js";
export { hugePageBytes, lockFile, punchFile, reserveFile, seekData, seekHole, unlockFile } from "./files.js";
export { registerFresh } from "./fresh-pages.js";
export { createMemfd, type Mapping, mapFile, readMemory, unmap, writeMemory } from "./mapping.js";
export { PacketBlock, type PlaceTarget } from "./packet-block.js";
export {
  clearPages,
  placePages,
  placePrepared,
  preparePacket,
  receiveHeader,
  receivePages,
  sendPacket,
} from "./packet-calls.js";
export { RANGES_MAX, RangeBlock, type RangeBlockTarget } from "./range-block.js";
export { loadIndex, markPages, storeIndex } from "./rings.js";
export { peekBytes, pollReadable, receiveBytes, sendBytes, setSocketTimeout } from "./socket-streams.js";
export {
  acceptSocket,
  closeDescriptor,
  connectSocket,
  isPathInUse,
  listenSocket,
  localPort,
  type SocketAddress,
  shutdownSending,
  shutdownSocket,
  socketPair,
} from "./sockets.js";
