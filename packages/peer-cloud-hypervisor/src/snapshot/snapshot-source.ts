/**
 * Snapshot source: a snapshot directory as a source that sends it.
 *
 * RAM is what the snapshot's list says, one block per range; nobody writes it, so one pass is all.
 */
import { ConfigError, composeConfig, type MemoryMapping } from "@multifd/protocol";
import { MemoryMap } from "../memory-map.js";
import type { CloudHypervisorSource } from "../source-job.js";
import type { SnapshotDirectory } from "./snapshot-directory.js";

/**
 * @param snapshot  Open until the source has been sent.
 * @throws {ConfigError} SNAPSHOT_RAM_ELSEWHERE, where part of RAM is not in it; MEMORY_MAP.
 */
export function snapshotSource(snapshot: SnapshotDirectory): CloudHypervisorSource {
  const { path, vmConfig, state, tree, ranges, unsaved, file, memory } = snapshot;
  const [missing] = unsaved;
  if (missing !== undefined || file === null)
    throw new ConfigError(
      "SNAPSHOT_RAM_ELSEWHERE",
      `${path} has no RAM from 0x${(missing?.gpa ?? 0n).toString(16)} on: a file of its own holds it at the source; send it from there with --ram`,
    );
  const mappings = ranges.map(({ gpa, lengthBytes }): MemoryMapping => {
    const mapping = memory.mappings.find((other) => gpa >= other.gpa && gpa < other.gpa + other.lengthBytes);
    return { gpa, lengthBytes: BigInt(lengthBytes), slot: null, zone: mapping?.zone ?? "", fileOffsetBytes: 0n };
  });
  const ram = new MemoryMap(mappings).blocks.map(({ block }, index) => ({
    block,
    descriptor: file.fd,
    offsetBytes: ranges[index]!.fileOffsetBytes,
  }));
  return {
    guest: { ram, tracker: null, devices: [], pause: async () => {}, resume: async () => {} },
    config: composeConfig(vmConfig, tree),
    mappings,
    snapshot: async () => state,
  };
}
