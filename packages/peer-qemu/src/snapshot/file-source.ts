/**
 * File source: a file read in pieces, with steps forward over what need not be read.
 *
 * Positions are offsets in the file. A step past the end is taken; the next read
 * then finds nothing there. Borrows the descriptor.
 */
import type { FileHandle } from "node:fs/promises";
import { ChunkSource, type SeekableSource } from "@multifd/protocol";

const READ_BYTES = 2 ** 18;

export class FileSource implements SeekableSource {
  readonly #file: FileHandle;
  /** A chunk source per stretch between two steps. */
  #chunks: ChunkSource;
  #base = 0;

  constructor(file: FileHandle) {
    this.#file = file;
    this.#chunks = new ChunkSource(readFrom(file, 0));
  }

  get available(): number {
    return this.#chunks.available;
  }

  get position(): number {
    return this.#base + this.#chunks.position;
  }

  fill(bytes: number): Promise<boolean> {
    return this.#chunks.fill(bytes);
  }

  take(bytes: number): Uint8Array {
    return this.#chunks.take(bytes);
  }

  u8(): number {
    return this.#chunks.u8();
  }

  u16(): number {
    return this.#chunks.u16();
  }

  u32(): number {
    return this.#chunks.u32();
  }

  u64(): number {
    return this.#chunks.u64();
  }

  seek(position: number): void {
    this.#base = position;
    this.#chunks = new ChunkSource(readFrom(this.#file, position));
  }
}

async function* readFrom(file: FileHandle, position: number): AsyncGenerator<Uint8Array> {
  for (let at = position; ; ) {
    const { bytesRead, buffer } = await file.read(Buffer.allocUnsafe(READ_BYTES), 0, READ_BYTES, at);
    if (bytesRead === 0) return;
    yield buffer.subarray(0, bytesRead);
    at += bytesRead;
  }
}
