/**
 * Snapshot stream: what a snapshot says beside its pages, out of the main stream's events.
 *
 * Both forms have that stream: a mapped-ram file is one, with gaps; a compressed
 * snapshot has one in its index.
 */
import type { DevicePart } from "@multifd/engine";
import { describeRamBlock, type RamBlock } from "@multifd/memory";
import {
  CAPABILITY_IGNORE_SHARED,
  CAPABILITY_MAPPED_RAM,
  dropCapability,
  type MainEvent,
  type MappedRamPlace,
  ProtocolError,
} from "@multifd/protocol";

/** More RAM than any machine has; it bounds what a damaged file may claim. */
export const SNAPSHOT_RAM_BYTES_MAX: number = 2 ** 44;

export type SnapshotStream = {
  readonly machineType: string;
  readonly pageBytes: number;
  readonly capabilities: readonly string[];
  readonly uuid: Uint8Array | null;
  readonly blocks: readonly RamBlock[];
  /** One per block in a mapped-ram file, else none. */
  readonly places: readonly MappedRamPlace[];
  readonly devices: DevicePart;
  readonly description: string;
  /** Where the devices begin in that stream. */
  readonly devicesAt: number;
};

/** @throws {ProtocolError} CAPABILITY, RAM_BLOCK_SIZE, SNAPSHOT_PAGES, or what the decoder refuses. */
export async function readSnapshotStream(events: AsyncIterable<MainEvent>): Promise<SnapshotStream> {
  let configuration: Extract<MainEvent, { kind: "configuration" }> | null = null;
  let ramSectionId = 0;
  let blocks: RamBlock[] = [];
  let places: MappedRamPlace[] = [];
  for await (const event of events) {
    switch (event.kind) {
      case "configuration":
        configuration = event;
        if (event.capabilities.includes(CAPABILITY_IGNORE_SHARED)) throw withoutSharedRam();
        break;
      case "ram-blocks":
        ramSectionId = event.sectionId;
        blocks = event.blocks.map((entry) => describeBlock(entry.name, entry.lengthBytes, configuration!.pageBytes));
        places = event.blocks.flatMap(({ mapped }) => (mapped === undefined ? [] : [mapped]));
        break;
      case "page":
      case "zero-pages":
        throw new ProtocolError(
          "SNAPSHOT_PAGES",
          "it has pages in its stream, where a snapshot has none; it is damaged",
        );
      case "devices": {
        const { machineType, pageBytes, uuid, bytes } = configuration!;
        return {
          machineType,
          pageBytes,
          capabilities: configuration!.capabilities.filter((name) => name !== CAPABILITY_MAPPED_RAM),
          uuid,
          blocks,
          places,
          devices: {
            machineType,
            ramSectionId,
            configuration: dropCapability(bytes, CAPABILITY_MAPPED_RAM),
            sections: event.bytes,
          },
          description: event.description,
          devicesAt: event.at,
        };
      }
      case "command":
      case "flush":
      case "section-end":
        break;
    }
  }
  throw new ProtocolError("SNAPSHOT_CUT", "its stream ends without a device part; the file has been cut short");
}

function describeBlock(name: string, lengthBytes: number, pageBytes: number): RamBlock {
  const block = describeRamBlock(name, lengthBytes, pageBytes);
  if (block !== null) return block;
  throw new ProtocolError(
    "RAM_BLOCK_SIZE",
    `RAM block "${name}" has ${lengthBytes} bytes, a whole number of ${pageBytes}-byte pages was due; the file is damaged`,
  );
}

function withoutSharedRam(): ProtocolError {
  return new ProtocolError(
    "CAPABILITY",
    "the snapshot leaves shared RAM out (capability x-ignore-shared): it is no whole guest; save it with that switched off",
  );
}
