/**
 * Return path: what the destination answers on the main connection.
 *
 * PONG answers a PING; SWITCHOVER_ACK permits the source to stop the guest,
 * and is sent only if both ends have that capability on; SHUT ends it, and
 * only SHUT with status 0 means that the destination has the guest. The
 * postcopy messages are refused: nobody asked for them. A hello is ours, and comes
 * only where a PING asked for it (hello.ts).
 *
 * Source: QEMU 10.2, migration/migration.h, enum mig_rp_message_type.
 */

import type { ByteSource } from "./byte-source.js";
import { ByteWriter } from "./byte-writer.js";
import { decodeHello, encodeHello, HELLO_BYTES_MAX, type Hello } from "./hello.js";
import { StreamReader } from "./stream-reader.js";

export type ReturnPathEvent =
  /** Status 0: the destination has taken over. */
  | { readonly kind: "shut"; readonly status: number }
  | { readonly kind: "pong"; readonly value: number }
  | { readonly kind: "switchover-ack" }
  | { readonly kind: "hello"; readonly hello: Hello };

const SHUT = 1;
const PONG = 2;
const SWITCHOVER_ACK = 7;
/** Ours, far above QEMU's. */
const HELLO = 0x4d46;

const LENGTHS: ReadonlyMap<number, number> = new Map([
  [SHUT, 4],
  [PONG, 4],
  [SWITCHOVER_ACK, 0],
]);

const REFUSED_NAMES: ReadonlyMap<number, string> = new Map([
  [3, "REQ_PAGES_ID"],
  [4, "REQ_PAGES"],
  [5, "RECV_BITMAP"],
  [6, "RESUME_ACK"],
]);

/** @param status  0 only when all data is applied and the guest safely taken over. */
export function encodeShut(status: number): Uint8Array<ArrayBuffer> {
  return new ByteWriter().u16(SHUT).u16(4).u32(status).finish();
}

export function encodePong(value: number): Uint8Array<ArrayBuffer> {
  return new ByteWriter().u16(PONG).u16(4).u32(value).finish();
}

export function encodeSwitchoverAck(): Uint8Array<ArrayBuffer> {
  return new ByteWriter().u16(SWITCHOVER_ACK).u16(0).finish();
}

export function encodeHelloAnswer(hello: Hello): Uint8Array<ArrayBuffer> {
  const body = encodeHello(hello);
  return new ByteWriter().u16(HELLO).u16(body.length).bytes(body).finish();
}

/**
 * Decodes what the destination says, until it closes between two messages.
 * A close without SHUT is a failure; that is for the caller to know.
 *
 * @throws {ProtocolError} RETURN_PATH_MESSAGE, HELLO_….
 * @throws {ChannelError} STREAM_CUT, if the stream ends inside a message.
 */
export async function* decodeReturnPath(source: ByteSource): AsyncGenerator<ReturnPathEvent> {
  const reader = new StreamReader(source, "return path");
  const what = "message";
  while (source.available > 0 || (await source.fill(1))) {
    const type = await reader.u16(what);
    const length = await reader.u16(what);
    if (type === HELLO) {
      if (length > HELLO_BYTES_MAX)
        throw reader.refused("HELLO_SIZE", "hello", `it has ${length} bytes, ${HELLO_BYTES_MAX} are the most`);
      yield { kind: "hello", hello: decodeHello(await reader.bytes(length, "hello")) };
      continue;
    }
    const due = LENGTHS.get(type);
    if (due === undefined) {
      const name = REFUSED_NAMES.get(type) ?? "unknown";
      const message = `message ${type} (${name}) came, which is not followed here; switch capability postcopy-ram off on both sides`;
      throw reader.refused("RETURN_PATH_MESSAGE", what, message);
    }
    if (length !== due) {
      const message = `message ${type} came with ${length} bytes, ${due} were due; the stream is damaged`;
      throw reader.refused("RETURN_PATH_MESSAGE", what, message);
    }
    if (type === SWITCHOVER_ACK) yield { kind: "switchover-ack" };
    else if (type === PONG) yield { kind: "pong", value: await reader.u32(what) };
    else yield { kind: "shut", status: await reader.u32(what) };
  }
}
