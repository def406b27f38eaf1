/**
 * Cloud Hypervisor: both ends of its migration protocol, and its snapshot directories, read and written.
 */
export { AdoptedFiles } from "./adopted-files.js";
export { runCloudHypervisorDestination } from "./destination.js";
export {
  type AdoptedRam,
  type CloudHypervisorDestinationGuest,
  type CloudHypervisorDestinationJob,
  type CloudHypervisorDestinationLimits,
  DESTINATION_LIMITS,
} from "./destination-job.js";
export { type CloudHypervisorRelayJob, runCloudHypervisorRelay } from "./relay/relay.js";
export { openSnapshotDirectory, type SavedRange, type SnapshotDirectory } from "./snapshot/snapshot-directory.js";
export { SnapshotGuest } from "./snapshot/snapshot-guest.js";
export { snapshotSource } from "./snapshot/snapshot-source.js";
export { runCloudHypervisorSource } from "./source.js";
export {
  type CloudHypervisorSource,
  type CloudHypervisorSourceJob,
  describeMemory,
  type HandOver,
} from "./source-job.js";
export { openStoredFiles, StoredFiles, type StoredPaths } from "./stored-files.js";
