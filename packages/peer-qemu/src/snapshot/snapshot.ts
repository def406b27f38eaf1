/**
 * Snapshot: a stopped guest in one file, whichever of the two forms it has.
 *
 * QEMU's mapped-ram, where every page has its place, or our compressed form,
 * where it is in a frame. Either stands alone: RAM, firmware blocks, device part and
 * machine type are inside.
 */
import type { DevicePart, RamSource } from "@multifd/engine";
import type { RamBlock } from "@multifd/memory";

export type SnapshotForm = "mapped-ram" | "compressed";

export interface Snapshot {
  readonly form: SnapshotForm;
  readonly path: string;
  readonly fileBytes: number;
  readonly machineType: string;
  readonly pageBytes: number;
  /** As the configuration lists them, but for mapped-ram, which is the file's affair. */
  readonly capabilities: readonly string[];
  readonly uuid: Uint8Array | null;
  /** In the stream's order. */
  readonly blocks: readonly RamBlock[];
  /** As a migration stream has it: without capability mapped-ram. */
  readonly devices: DevicePart;
  /** Of the devices, JSON. */
  readonly description: string;
  /** Where the devices begin: in a mapped-ram file, its offset; in the compressed form, in the stream that its index holds. */
  readonly devicesAt: number;
  /** As a source guest has its RAM; the descriptors stay the snapshot's. */
  readonly ram: readonly RamSource[];
  /** Whether a page holds something; the others are zeros. */
  hasPage(block: number, page: number): boolean;
  /** Pages of a block that hold something. */
  countPages(block: number): number;
  /**
   * Reads one page, zeros included.
   *
   * @param out  `pageBytes` long.
   * @throws {ProtocolError} SNAPSHOT_DAMAGED, SNAPSHOT_CUT; only the compressed form can tell.
   */
  readPage(block: number, page: number, out: Uint8Array): void;
  close(): Promise<void>;
}
