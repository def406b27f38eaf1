/**
 * Cloud Hypervisor: both ends of its migration protocol, and its snapshot directories, read and written.
 */
export { runCloudHypervisorDestination } from "./destination.js";
export {
  type AdoptedRam,
  type CloudHypervisorDestinationGuest,
  type CloudHypervisorDestinationJob,
  type CloudHypervisorDestinationLimits,
  DESTINATION_LIMITS,
} from "./destination-job.js";
export { type MappedBlock, MemoryMap, PAGE_BYTES } from "./memory-map.js";
export {
  CONFIG_FILE,
  MEMORY_FILE,
  openSnapshotDirectory,
  type SavedRange,
  type SnapshotDirectory,
  STATE_FILE,
} from "./snapshot/snapshot-directory.js";
export { SnapshotWriter } from "./snapshot/snapshot-writer.js";
export { runCloudHypervisorSource } from "./source.js";
export { type CloudHypervisorSource, type CloudHypervisorSourceJob, describeMemory } from "./source-job.js";
