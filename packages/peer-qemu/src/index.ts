export { QemuDestinationPeer, type QemuDestinationTerms } from "./destination-peer.js";
export { type DeviceFile, readDeviceFile, writeDeviceFile } from "./device-file.js";
export { type Dialect, dialectOf } from "./dialect.js";
export type { GuestKeeper } from "./drive/guest-keeper.js";
export { type RestoreJob, restoreVm } from "./drive/restore-vm.js";
export { type SaveJob, saveVm } from "./drive/save-vm.js";
export { type MigrateQemuJob, migrateQemu } from "./live/migrate-qemu.js";
export { type ReceiveQemuJob, receiveQemu } from "./live/receive-qemu.js";
export {
  type ReceiveAsSourceJob,
  type ReceiveStartedJob,
  receiveAsSource,
  receiveIntoStarted,
  type StartedResult,
} from "./live/receive-started.js";
export { type SnapshotQemuJob, snapshotQemu } from "./live/snapshot-qemu.js";
export { QmpClient, type QmpEvent } from "./qmp-client.js";
export type { ReceptionTerms } from "./reception.js";
export { QemuRelayPeer } from "./relay-peer.js";
export { CompressedWriter } from "./snapshot/compressed-writer.js";
export { MappedRamWriter } from "./snapshot/mapped-ram-writer.js";
export { openSnapshot } from "./snapshot/open-snapshot.js";
export type { Snapshot, SnapshotForm } from "./snapshot/snapshot.js";
export { storedGuest } from "./snapshot/stored-guest.js";
export { QemuSourcePeer, type QemuSourceTerms } from "./source-peer.js";
export { type QemuLine, splitCommandLine } from "./start/qemu-options.js";
export { readRunningLine } from "./start/running-line.js";
export type { StartTerms } from "./start/started-qemu.js";
