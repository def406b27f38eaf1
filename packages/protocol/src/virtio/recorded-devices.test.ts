/** Recorded virtio devices: which vectors hold one, and each of them decoded. */

import assert from "node:assert/strict";
import { recordedSection } from "../recorded-vectors.test.js";
import { decodeVirtioDevice, type VirtioDevice } from "./virtio-device.js";

const BOTH = [
  "virtio-net-running",
  "virtio-net-multiqueue",
  "virtio-blk-running",
  "virtio-blk-legacy",
  "virtio-blk-parked",
  "virtio-console",
  "virtio-balloon",
  "virtio-rng-legacy",
  "virtio-rng-packed",
  "vhost-user-scsi",
];

/** Every recorded virtio device section. */
export const recordedDevices: readonly string[] = [
  ...["qemu-7.2", "qemu-11.1"].flatMap((peer) => BOTH.map((name) => `${peer}/${name}`)),
  "qemu-7.2/vhost-user-blk",
  "qemu-11.1/vhost-user-blk-inflight",
  "qemu-11.1/virtio-net-backend-state",
  "qemu-11.1/vhost-user-fs",
];

export function recordedDevice(name: string): VirtioDevice {
  const { name: section, bytes, version } = recordedSection(`${name}.bin.gz`);
  const device = decodeVirtioDevice(section, bytes, version);
  assert.ok(device !== null, `${name} is no virtio device`);
  return device;
}
