/**
 * Init message: the first 64 bytes of every multifd channel.
 *
 * It tells the destination which channel this connection is, for connections
 * arrive in any order, and which virtual machine it belongs to. Its first four
 * bytes tell a multifd channel from the main channel ("QEVM").
 *
 * Source: QEMU 10.2, migration/multifd.c, MultiFDInit_t.
 */

import { ConfigError } from "./errors.js";
import { layout, type ValuesOf } from "./layout.js";
import { bytes, reserved, u8, u32be } from "./wire-fields.js";

export const MULTIFD_MAGIC = 0x11223344;
export const MULTIFD_VERSION = 1;

/** What a connection's first bytes are if it is a multifd channel. */
export const MULTIFD_MAGIC_BYTES: Uint8Array = Uint8Array.of(0x11, 0x22, 0x33, 0x44);

/** How a wrong magic or version is reported, in every multifd header. */
export const WRONG_MAGIC = {
  code: "MULTIFD_MAGIC",
  remedy: "the peer lost its place in the stream, or is not a multifd channel: both ends must have multifd on",
};
export const WRONG_VERSION = {
  code: "MULTIFD_VERSION",
  remedy: "the peer speaks another version of multifd",
};

const multifdInit = layout(
  "multifd init message",
  {
    magic: u32be.equals(MULTIFD_MAGIC, WRONG_MAGIC),
    version: u32be.equals(MULTIFD_VERSION, WRONG_VERSION),
    uuid: bytes(16), // of the virtual machine; zeros when it has none
    channel: u8, // wire: id, unique, 0 to channels - 1
    reserved: reserved(39), // wire: unused1 and unused2
  },
  { size: 64 },
);

export const MULTIFD_INIT_BYTES = multifdInit.size;

export type MultifdInit = ValuesOf<typeof multifdInit.fields>;

export function encodeMultifdInit(init: MultifdInit): Uint8Array<ArrayBuffer> {
  return multifdInit.encode(init);
}

/**
 * Decodes a channel's first message. That the uuid is ours and the channel
 * number free and below the number of channels is for the caller to check.
 *
 * @throws {ProtocolError} MULTIFD_MAGIC, MULTIFD_VERSION or WIRE_TRUNCATED.
 */
export function decodeMultifdInit(message: Uint8Array): MultifdInit {
  return multifdInit.decode(message);
}

/**
 * Reads a UUID in its usual text form, in either case.
 *
 * @throws {ConfigError} UUID_SYNTAX.
 */
export function parseUuid(text: string): Uint8Array<ArrayBuffer> {
  if (!/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i.test(text))
    throw new ConfigError("UUID_SYNTAX", `"${text}" is not a UUID; write it like 01234567-89ab-cdef-0123-456789abcdef`);
  const digits = text.replaceAll("-", "");
  return Uint8Array.from({ length: 16 }, (_, i) => Number.parseInt(digits.slice(2 * i, 2 * i + 2), 16));
}

/** The inverse of `parseUuid`, in lower case. */
export function formatUuid(uuid: Uint8Array): string {
  const digits = Array.from(uuid, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return digits.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}
