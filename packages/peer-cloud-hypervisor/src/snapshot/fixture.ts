/** A small VM as a migration brings it, for the tests of snapshots: Config, State and RAM. */
import type { MemoryMapping } from "@multifd/protocol";

export type FixtureRange = { readonly gpa: number; readonly length: number };

/** Two runs of RAM around a hole, as the default zone of a VM of more than 3 GiB has them. */
export const LOW = { gpa: 0, length: 3 * 4096 };
export const HIGH = { gpa: 2 ** 32, length: 2 * 4096 };

/** No double holds it. */
export const BIG = "9223372036854775809";

export const VM_CONFIG = `{"cpus":{"boot_vcpus":2},"memory":{"size":20480},"payload":{"kernel":"/vmlinux"},"odd":${BIG}}`;

export function memoryText(
  ranges: readonly FixtureRange[],
  mappings: readonly (FixtureRange & { readonly virtioMem?: boolean })[] = [LOW, HIGH],
): string {
  const mapped = mappings.map(
    ({ gpa, length, virtioMem = false }, slot) =>
      `{"slot":${slot},"gpa":${gpa},"size":${length},"zone_id":"mem0","virtio_mem":${virtioMem},"file_offset":0}`,
  );
  return `{"memory_ranges":{"data":${JSON.stringify(ranges)}},"guest_ram_mappings":[${mapped}],"start_of_device_area":${BIG}}`;
}

export function stateText(memory: string): string {
  const data = (text: string) => `{"state":${JSON.stringify(text)}}`;
  const device = `{"snapshots":{},"snapshot_data":${data('{"queues":[{"size":256}]}')}}`;
  return (
    `{"snapshots":{"cpu-manager":{"snapshots":{},"snapshot_data":null},` +
    `"device-manager":{"snapshots":{"_disk0":${device}},"snapshot_data":null},` +
    `"memory-manager":{"snapshots":{},"snapshot_data":${data(memory)}}},` +
    `"snapshot_data":${data(`{"clock":${BIG},"common_cpuid":[{"function":7}]}`)}}`
  );
}

export function configText(memory: string): string {
  return `{"vm_config":${VM_CONFIG},"common_cpuid":[{"function":7}],"memory_manager_data":${memory}}`;
}

export function mappingsOf(ranges: readonly FixtureRange[]): readonly MemoryMapping[] {
  return ranges.map(({ gpa, length }, slot) => ({
    gpa: BigInt(gpa),
    lengthBytes: BigInt(length),
    slot,
    zone: "mem0",
    fileOffsetBytes: 0n,
  }));
}
