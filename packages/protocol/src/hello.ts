/**
 * Hello: what two of our own ends say to each other before they leave QEMU's wire.
 *
 *   source ──▶ PING(HELLO_PING)          a PING like any other, and all that a QEMU ever sees
 *   source ◀── HELLO, PONG               a QEMU, or a multifd told nothing of it, answers PONG alone
 *   source ──▶ HELLO                     the methods that packets will bear from here on
 *
 * A source sends that PING only where it was told to use what a hello is for, and a
 * destination answers it only where it was told so too. Both hellos have one
 * form: behind the command's or the message's own length a magic number, a
 * version, and a MessagePack map. Keys and methods that we do not know are passed
 * over, so that a later version can say more. It is a stranger who speaks: the
 * form of the map is checked before anything is made of it.
 */
import { Packr } from "msgpackr";
import { ProtocolError } from "./errors.js";
import { layout } from "./layout.js";
import { checkMessagePack } from "./message-pack-form.js";
import type { PacketMethod } from "./packet-flags.js";
import { u16be, u32be } from "./wire-fields.js";

/** Value of the PING that asks for a hello: "MFDH". */
export const HELLO_PING = 0x4d464448;
/** A whole hello, its magic number included. */
export const HELLO_BYTES_MAX = 1024;
const METHODS_MAX = 32;

export type Hello = {
  /** A destination's: those it takes. A source's: those of them that packets may bear. Each once. */
  readonly methods: readonly PacketMethod[];
};

const helloHead = layout(
  "hello",
  {
    magic: u32be.equals(HELLO_PING, { code: "HELLO_MAGIC", remedy: "the peer is no multifd" }),
    version: u16be.equals(1, { code: "HELLO_VERSION", remedy: "use the same release of multifd on both sides" }),
  },
  { size: 6 },
);

const KNOWN_METHODS: readonly PacketMethod[] = ["none", "zlib", "zstd", "lz4"];

const packr = new Packr({ useRecords: false });

export function encodeHello(hello: Hello): Uint8Array<ArrayBuffer> {
  const map = packr.pack({ methods: [...hello.methods] });
  const out = new Uint8Array(helloHead.size + map.length);
  out.set(helloHead.encode({}));
  out.set(map, helloHead.size);
  return out;
}

/**
 * @param bytes  A whole hello, at most HELLO_BYTES_MAX.
 * @throws {ProtocolError} WIRE_TRUNCATED, HELLO_MAGIC, HELLO_VERSION, HELLO_FORM.
 */
export function decodeHello(bytes: Uint8Array): Hello {
  helloHead.decode(bytes);
  const map = bytes.subarray(helloHead.size);
  checkMessagePack(map, "hello", "HELLO_FORM");
  const content: unknown = packr.unpack(map);
  const methods = isMap(content) ? content.methods : undefined;
  if (!Array.isArray(methods) || methods.length > METHODS_MAX || !methods.every((name) => typeof name === "string")) {
    throw new ProtocolError("HELLO_FORM", 'hello: it bears no list of "methods"; the peer is no multifd');
  }
  return { methods: KNOWN_METHODS.filter((known) => methods.includes(known)) };
}

function isMap(value: unknown): value is { readonly methods?: unknown } {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
