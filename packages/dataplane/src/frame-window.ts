/**
 * Frame window: memory for one frame's pages, which the C library knows by address.
 *
 * The packet calls read and place pages in mappings. A frame's pages belong to no
 * mapping, so each thread that handles frames has this one: page n of the frame is
 * page n of the window.
 */
import {
  closeDescriptor,
  createMemfd,
  type Mapping,
  mapFile,
  type PacketBlock,
  type PlaceTarget,
  unmap,
} from "@multifd/native";
import { FRAME_GUEST_BYTES } from "@multifd/protocol";

export class FrameWindow {
  readonly mapping: Mapping;
  readonly #target: PlaceTarget;

  constructor() {
    const memory = createMemfd("multifd:frame", FRAME_GUEST_BYTES);
    try {
      this.mapping = mapFile(memory, { lengthBytes: FRAME_GUEST_BYTES, writable: true });
    } finally {
      closeDescriptor(memory);
    }
    this.#target = {
      lengthBytes: BigInt(FRAME_GUEST_BYTES),
      file: -1,
      fileOffsetBytes: 0n,
      address: BigInt(this.mapping.address),
      fresh: -1,
    };
  }

  /** Makes the window the block that a packet is prepared from, and lists its first `pages` pages. */
  readFrom(packet: PacketBlock, pages: number): void {
    packet.readFromMapping(this.#target.address, this.#target.lengthBytes);
    listPages(packet, pages);
  }

  /** Makes the window the block that a packet's pages are placed into, and lists its first `pages` pages. */
  placeInto(packet: PacketBlock, pages: number): void {
    packet.placeInto(this.#target, false);
    listPages(packet, pages);
  }

  free(): void {
    unmap(this.mapping);
  }
}

function listPages(packet: PacketBlock, pages: number): void {
  for (let i = 0; i < pages; i++) packet.pages[i] = i;
}
