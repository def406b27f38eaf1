/**
 * Bitmap tracker: dirty pages as the embedder reports them.
 *
 * For whoever can see the guest's writes: a hypervisor's dirty log, an emulator's
 * store hook. It sets bits (page i is bit i & 31 of word i >> 5) with an atomic OR from
 * any thread, after the write to the page; each harvest takes them with an atomic
 * exchange, so none falls between.
 */
import type { DirtyBitmap, DirtyTracker, RamBlock } from "@multifd/memory";
import { exchangeBitmap } from "@multifd/native";
import { ConfigError } from "@multifd/protocol";

export class BitmapTracker implements DirtyTracker {
  readonly name = "bitmap";
  readonly #bitmaps: readonly SharedArrayBuffer[];

  /** @param bitmaps  One per RAM block, in the guest's order: a bit per page, in whole 64-bit words. */
  constructor(bitmaps: readonly SharedArrayBuffer[]) {
    this.#bitmaps = bitmaps;
  }

  /** @throws {ConfigError} BITMAP_SIZE. */
  async start(blocks: readonly RamBlock[]): Promise<void> {
    for (const [index, block] of blocks.entries()) {
      const due = Math.ceil(block.pageCount / 64) * 8;
      const came = this.#bitmaps[index]?.byteLength ?? 0;
      if (came === due) continue;
      throw new ConfigError(
        "BITMAP_SIZE",
        `RAM block "${block.name}": its dirty bitmap has ${came} bytes, ${due} were due for ${block.pageCount} pages`,
      );
    }
  }

  harvest(block: number, dirty: DirtyBitmap): void {
    exchangeBitmap(new Uint8Array(this.#bitmaps[block]!), dirty.bytes);
    dirty.trim();
  }

  async stop(): Promise<void> {}
}
