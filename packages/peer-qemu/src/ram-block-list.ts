/** RAM block list: from what a stream lists to RAM blocks that have whole pages. */
import { describeRamBlock, type RamBlock } from "@multifd/memory";
import { ProtocolError, type RamBlockListEntry } from "@multifd/protocol";

/** @throws {ProtocolError} RAM_BLOCK_SIZE. */
export function describeBlocks(entries: readonly RamBlockListEntry[], pageBytes: number): RamBlock[] {
  return entries.map(({ name, lengthBytes }) => {
    const block = describeRamBlock(name, lengthBytes, pageBytes);
    if (block !== null) return block;
    throw new ProtocolError(
      "RAM_BLOCK_SIZE",
      `RAM block "${name}" has ${lengthBytes} bytes, a whole number of ${pageBytes}-byte pages below 2^32 was due; use the same guest page size on both sides`,
    );
  });
}
