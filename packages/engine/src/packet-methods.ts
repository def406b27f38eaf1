/**
 * Packet methods: what packets may bear, out of what this end was told and what came of a hello.
 *
 * On QEMU's wire all packets bear one method, and lz4 is none of them; to choose
 * freely there means to choose within zstd, whose frames may hold raw blocks.
 */
import { type Compression, ConfigError, type PacketMethod } from "@multifd/protocol";

/**
 * @param agreed  By a hello; null without one.
 * @param peer    For the message: `destination at tcp:…`.
 * @throws {ConfigError} LZ4_WITHOUT_HELLO.
 */
export function packetMethods(
  compression: Compression,
  agreed: readonly PacketMethod[] | null,
  peer: string,
): readonly PacketMethod[] {
  switch (compression) {
    case "none":
    case "zlib":
    case "zstd":
      return [compression];
    case "auto":
      return agreed ?? ["zstd"];
    case "lz4":
      if (agreed?.includes("lz4")) return agreed;
      throw new ConfigError(
        "LZ4_WITHOUT_HELLO",
        `${peer}: it did not answer for lz4, which only multifd speaks, with --compression lz4 or auto at both ends and a return path; towards a QEMU choose none, zlib or zstd, the same on both sides`,
      );
  }
}
