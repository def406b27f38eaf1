/**
 * Codecs: compression contexts in C behind small handles, one per channel and direction.
 *
 * A compressor's packets stand alone; a decompressor reads one stream over all
 * packets of its channel, as QEMU sends it. A handle is used by one thread at a
 * time and freed by its owner; there are 1024.
 */
import { call } from "./library.js";
import { checked } from "./native-result.js";

export type CodecMethod = "zlib" | "zstd" | "lz4";

/** A zstd level of our own: nothing is compressed, for a destination that takes nothing but zstd. */
export const ZSTD_STORE_LEVEL = -100;

const methodNumber = { zlib: 1, zstd: 2, lz4: 3 } as const satisfies Record<CodecMethod, number>;

/**
 * @param level  zlib 0 (stored) to 9, zstd 0 (the library's default, 3) to 20, or below 0
 *   (faster, down to -99) or ZSTD_STORE_LEVEL; lz4 1.
 * @throws {ConfigError} CODEC_NOT_BUILT.
 */
export function createCompressor(method: CodecMethod, level: number): number {
  return checked(
    call("mfd_compressor_create", methodNumber[method], level),
    `opening a ${method} compressor of level ${level}`,
  );
}

/** @throws {ConfigError} CODEC_NOT_BUILT. */
export function createDecompressor(method: CodecMethod): number {
  return checked(call("mfd_decompressor_create", methodNumber[method]), `opening a ${method} decompressor`);
}

export function freeCodec(handle: number): void {
  checked(call("mfd_codec_free", handle), `closing codec ${handle}`);
}
