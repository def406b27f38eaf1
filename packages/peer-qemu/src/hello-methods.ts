/**
 * Hello methods: what our end of a hello says.
 *
 * `none` is always among them: what a method makes hardly smaller goes out raw.
 */
import { nativeFeatures } from "@multifd/native";
import { type Compression, type Hello, type PacketMethod, ProtocolError } from "@multifd/protocol";

/** What an end that was told `compression` says hello for; null where it keeps to QEMU's wire. */
export function helloMethods(compression: Compression): readonly PacketMethod[] | null {
  switch (compression) {
    case "none":
    case "zlib":
    case "zstd":
      return null;
    case "lz4":
      return ["none", "lz4"];
    case "auto": {
      const { lz4, zstd } = nativeFeatures();
      return ["none", ...(lz4 ? (["lz4"] as const) : []), ...(zstd ? (["zstd"] as const) : [])];
    }
  }
}

/**
 * The methods that packets will bear: those of ours that the destination takes.
 *
 * @throws {ProtocolError} HELLO_METHODS.
 */
export function commonMethods(ours: readonly PacketMethod[], answer: Hello): readonly PacketMethod[] {
  const common = ours.filter((method) => answer.methods.includes(method));
  if (common.includes("none")) return common;
  throw new ProtocolError(
    "HELLO_METHODS",
    `the destination's hello names ${list(answer.methods)}, this side's ${list(ours)}; use the same release of multifd on both sides`,
  );
}

/**
 * Checks what a source's hello says against our answer to its question.
 *
 * @param offered  Null where nobody asked, or was answered already.
 * @throws {ProtocolError} HELLO_UNEXPECTED, HELLO_METHODS.
 */
export function announcedMethods(offered: readonly PacketMethod[] | null, hello: Hello): readonly PacketMethod[] {
  if (offered === null) {
    throw new ProtocolError("HELLO_UNEXPECTED", "a hello came that nobody waits for; the stream is damaged");
  }
  const { methods } = hello;
  if (methods.includes("none") && methods.every((method) => offered.includes(method))) return methods;
  throw new ProtocolError(
    "HELLO_METHODS",
    `the source's hello names ${list(methods)}, ${list(offered)} were offered; use the same release of multifd on both sides`,
  );
}

function list(methods: readonly PacketMethod[]): string {
  return methods.length === 0 ? "no method" : methods.join(", ");
}
