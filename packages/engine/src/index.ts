export { type AttachedTracking, type AttachJob, attachTracking } from "./attach-tracking.js";
export { Attempt } from "./attempt.js";
export { BitmapTracker } from "./bitmap-tracker.js";
export { CombinedTracker } from "./combined-tracker.js";
export { Convergence, willNotConverge } from "./convergence.js";
export { runDestination } from "./destination.js";
export type { DestinationJob } from "./destination-job.js";
export { DirtyPages } from "./dirty-pages.js";
export {
  type EventSink,
  type MigrationEvent,
  type MigrationResult,
  type MigrationTotals,
  tellOutcome,
} from "./events.js";
export { FirstFailure } from "./first-failure.js";
export type {
  DestinationGuest,
  DeviceName,
  DevicePart,
  DeviceStateProvider,
  RamFeed,
  RamPlacement,
  RamSource,
  SourceGuest,
} from "./guest.js";
export { acknowledgementLost, messageOf, resumeAfter } from "./guest-left-behind.js";
export { requireTracking, trackingRemedy } from "./kernel-tracking.js";
export { directIoFiles } from "./other-writers.js";
export { nameWholeFile, partialPath, syncFolder } from "./partial-file.js";
export type { DestinationPeer, ListedBlock, RoundPhase, SourcePeer, SourceWord, ZeroPages } from "./peer.js";
export { LOADED_MS } from "./peer.js";
export { PlacedRam } from "./placed-ram.js";
export { fileIdentity, wholeBlock } from "./process-ram.js";
export { ProgressMeter } from "./progress-meter.js";
export { type KeptBlock, RamFiles, type SavedGuest } from "./ram-files.js";
export { RangeThread, RangeThreads } from "./range-threads.js";
export { runRelay } from "./relay.js";
export type { RelayJob, RelayResult } from "./relay-job.js";
export type { RelayPeer, RelayWord } from "./relay-peer.js";
export { RoundPublisher } from "./round-publisher.js";
export { runSave, type SaveJob } from "./save.js";
export { runSource } from "./source.js";
export type { SourceJob } from "./source-job.js";
export { StoppedRam } from "./stopped-ram.js";
export { UserfaultfdTracker } from "./userfaultfd-tracker.js";
export { collectDeviceState, provideDeviceState } from "./whole-device-state.js";
