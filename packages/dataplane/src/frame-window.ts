/**
 * Frame window: memory for one frame's pages, which the C library knows by address.
 *
 * The packet calls read and place pages in mappings. A frame's pages belong to no
 * mapping, so each thread that handles frames has this one: page n of the frame is
 * page n of the window.
 */
import { closeDescriptor, createMemfd, type Mapping, mapFile, type PacketBlock, unmap } from "@multifd/native";
import { FRAME_GUEST_BYTES } from "@multifd/protocol";

export class FrameWindow {
  readonly mapping: Mapping;

  constructor() {
    const memory = createMemfd("multifd:frame", FRAME_GUEST_BYTES);
    try {
      this.mapping = mapFile(memory, { lengthBytes: FRAME_GUEST_BYTES, writable: true });
    } finally {
      closeDescriptor(memory);
    }
  }

  /** Makes the window the block that a packet's calls work on, and lists its first `pages` pages. */
  target(packet: PacketBlock, pages: number): void {
    packet.target(BigInt(this.mapping.address), BigInt(FRAME_GUEST_BYTES), -1);
    for (let i = 0; i < pages; i++) packet.pages[i] = i;
  }

  free(): void {
    unmap(this.mapping);
  }
}
