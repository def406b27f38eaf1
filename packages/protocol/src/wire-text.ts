/** Wire text: UTF-8, and nothing that only looks like it. */
import { ProtocolError } from "./errors.js";

const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
const textEncoder = new TextEncoder();

export function encodeText(text: string): Uint8Array<ArrayBuffer> {
  return textEncoder.encode(text);
}

/** @throws {ProtocolError} WIRE_TEXT, if the bytes are not UTF-8. */
export function decodeText(text: Uint8Array, where: string): string {
  try {
    return utf8.decode(text);
  } catch (cause) {
    throw new ProtocolError("WIRE_TEXT", `${where}: the text is not UTF-8; the stream is damaged`, { cause });
  }
}
