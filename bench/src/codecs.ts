/**
 * Codecs: what the payload can be made of, one line each. A codec joins the harness by a line here.
 */
export type Codec = {
  /** As `--compression` of our commands and of the bench names it. */
  readonly method: string;
  /** What a QEMU's multifd-compression is beside it; null for what only our own two ends speak. */
  readonly qemu: "none" | "zlib" | "zstd" | null;
};

export const codecs: readonly Codec[] = [
  { method: "none", qemu: "none" },
  { method: "zstd", qemu: "zstd" },
  { method: "zlib", qemu: "zlib" },
  { method: "lz4", qemu: null },
  { method: "auto", qemu: "zstd" },
];

/** The level of every codec that has levels: QEMU's default, and ours. */
export const LEVEL = 1;

/** What a loop without a codec can be the ceiling of. */
export const UNCOMPRESSED = "none";

/** @throws {Error} where there is none of that name. */
export function findCodec(method: string): Codec {
  const found = codecs.find((codec) => codec.method === method);
  if (found) return found;
  throw new Error(`there is no codec called "${method}"`);
}
