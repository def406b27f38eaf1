/**
 * Cloud Hypervisor: its snapshot directories, read and written.
 */
export {
  CONFIG_FILE,
  MEMORY_FILE,
  openSnapshotDirectory,
  type SavedRange,
  type SnapshotDirectory,
  STATE_FILE,
} from "./snapshot/snapshot-directory.js";
export { SnapshotWriter } from "./snapshot/snapshot-writer.js";
