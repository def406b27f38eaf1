/**
 * Cloud Hypervisor VM: what its payloads look like, for a VM of two runs of RAM around a hole.
 *
 * Of the form that a release from 39.0 on writes, numbers of 2^63 + 1 in both included. Config here is
 * what a snapshot is restored with, so that it comes back to the byte.
 */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { randomImage } from "./ram-image.js";

const BIG = "9223372036854775809";
export const LOW_BYTES = 6 * 2 ** 20;
export const HIGH_BYTES = 10 * 2 ** 20;
const HIGH_GPA = 2 ** 32;
/** Block names as receive and send know them. */
export const LOW_BLOCK = "mem0@0x0";
export const HIGH_BLOCK = "mem0@0x100000000";

const RANGES = [
  { gpa: HIGH_GPA, length: HIGH_BYTES },
  { gpa: 0, length: LOW_BYTES },
];
/** The ranges of its snapshot are in another order than its mappings. */
const MEMORY =
  `{"memory_ranges":{"data":${JSON.stringify(RANGES)}},"guest_ram_mappings":[` +
  `{"slot":0,"gpa":0,"size":${LOW_BYTES},"zone_id":"mem0","virtio_mem":false,"file_offset":0},` +
  `{"slot":1,"gpa":${HIGH_GPA},"size":${HIGH_BYTES},"zone_id":"mem0","virtio_mem":false,"file_offset":0}],` +
  `"start_of_device_area":${BIG}}`;

export const VM_CONFIG = `{"cpus":{"boot_vcpus":2},"memory":{"size":16777216},"odd":${BIG},"text":"\\u00fc ü"}`;
export const CONFIG = `{"vm_config":${VM_CONFIG},"common_cpuid":[{"function":7,"eax":4294967295}],"memory_manager_data":${MEMORY}}`;

function saved(text: string): string {
  return `{"state":${JSON.stringify(text)}}`;
}

export const STATE =
  `{"snapshots":{"device-manager":{"snapshots":{"_disk0":{"snapshots":{},"snapshot_data":${saved(`{"sector":${BIG}}`)}}},"snapshot_data":null},` +
  `"memory-manager":{"snapshots":{},"snapshot_data":${saved(MEMORY)}}},` +
  `"snapshot_data":${saved(`{"clock":${BIG},"common_cpuid":[{"function":7,"eax":4294967295}]}`)}}`;

export type StoredVm = {
  readonly low: string;
  readonly high: string;
  readonly config: string;
  readonly state: string;
  /** How send and receive name them. */
  readonly flags: readonly string[];
};

/** Paths of a VM in files. */
export function storedVm(dir: string, name: string): StoredVm {
  const path = (part: string) => join(dir, `${name}.${part}`);
  const [low, high, config, state] = [path("low"), path("high"), path("config"), path("state")];
  const ram = ["--ram", `${LOW_BLOCK}=${low}`, "--ram", `${HIGH_BLOCK}=${high}`];
  return { low, high, config, state, flags: [...ram, "--config", config, "--state", state] };
}

/** Writes a VM into such files: random RAM low, two pages among zeros high. */
export function writeStoredVm(dir: string, name: string): StoredVm {
  const vm = storedVm(dir, name);
  randomImage(vm.low, LOW_BYTES, 6);
  writeFileSync(vm.high, Buffer.alloc(HIGH_BYTES).fill("high", 2 ** 20, 2 ** 20 + 8192));
  writeFileSync(vm.config, CONFIG);
  writeFileSync(vm.state, STATE);
  return vm;
}
