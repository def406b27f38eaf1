/** The peers that tests run against, and what their guests hold. */
export { BackEndProcess, type BackEndProgram, passt, storageDaemon, testpmd, virtiofsd } from "./back-end-process.js";
export {
  BOOT_GUEST_STATE_AT,
  BOOT_GUEST_STATE_BYTES,
  type BootGuest,
  type BootGuestState,
  bootGuestSector,
  checkBootGuest,
  checkSerialOutput,
  decodeBootGuest,
  paceBootGuest,
  readBootGuest,
  sixteenMegabytes,
  waitForProgress,
  waitForSweep,
} from "./boot-guest.js";
export { HeadlessBrowser, type PageView, type ShownPage } from "./browser.js";
export { type CertificateWishes, makeAuthority, makeCertificates, makeKeys, tlsObject } from "./certificates.js";
export {
  CONFIG as CLOUD_HYPERVISOR_CONFIG,
  HIGH_BLOCK,
  HIGH_BYTES,
  LOW_BLOCK,
  LOW_BYTES,
  STATE as CLOUD_HYPERVISOR_STATE,
  type StoredVm,
  storedVm,
  VM_CONFIG,
  writeStoredVm,
} from "./cloud-hypervisor-vm.js";
export { ControlGuest, type ControlledLife } from "./control-guest.js";
export { FUSE_ROOT, FuseSession } from "./fuse-session.js";
export { type CommandEvent, type CommandOutcome, MultifdProcess } from "./multifd-process.js";
export { findQemu, type QemuBinary, type QemuVersion } from "./qemu-binary.js";
export type { QemuOptions, RamFile } from "./qemu-command-line.js";
export { type MigrationOutcome, type MigrationSetup, QemuProcess } from "./qemu-process.js";
export {
  assertSameBytes,
  type ComparedRange,
  countNonZeroPages,
  type Difference,
  firstDifference,
} from "./ram-compare.js";
export { mixedImage, mixedShares, randomImage, textImage, zeroImage } from "./ram-image.js";
export { createScratchDir, removeScratchDir } from "./scratch-dir.js";
export { startScriptedBackEnd } from "./scripted-back-end.js";
export { SerialConsole } from "./serial-console.js";
export { type Buffers, DriverQueue, GuestMemory, type RamRun } from "./virtio-guest.js";
