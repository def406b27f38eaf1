/**
 * First words: what a connection says of itself before it is anybody's.
 *
 * A migration source opens its main channel with a magic, and each multifd channel with an init message that begins
 * with another. Looked at, not taken: whoever the connection is given to finds the bytes in place. A part of a
 * message decides nothing, and neither does silence.
 *
 * Source: QEMU 10.1, migration/migration.c, migration_ioc_process_incoming().
 */
import type { Channel } from "@multifd/channel";
import { peekBytes } from "@multifd/native";
import { ChannelError, MAIN_MAGIC_BYTES, MULTIFD_INIT_BYTES, MULTIFD_MAGIC_BYTES } from "@multifd/protocol";

export type FirstWords =
  | { readonly kind: "too-few" }
  /** It went without saying enough. */
  | { readonly kind: "ended" }
  | { readonly kind: "main" }
  /** The whole init message, unchecked but for its magic. */
  | { readonly kind: "multifd"; readonly init: Uint8Array }
  | { readonly kind: "unknown"; readonly magic: Uint8Array };

const MAGIC_BYTES = 4;

export function firstWords(connection: Channel): FirstWords {
  const start = new Uint8Array(MULTIFD_INIT_BYTES);
  const length = peek(connection, start);
  if (length === 0) return { kind: "ended" };
  if (length === null || length < MAGIC_BYTES) return { kind: "too-few" };
  const magic = start.subarray(0, MAGIC_BYTES);
  if (Buffer.compare(magic, MAIN_MAGIC_BYTES) === 0) return { kind: "main" };
  if (Buffer.compare(magic, MULTIFD_MAGIC_BYTES) !== 0) return { kind: "unknown", magic };
  return length < MULTIFD_INIT_BYTES ? { kind: "too-few" } : { kind: "multifd", init: start };
}

/** As `peekBytes`, but a link that broke has ended. */
function peek(connection: Channel, out: Uint8Array): number | null {
  try {
    return peekBytes(connection.descriptor, out);
  } catch (error) {
    if (error instanceof ChannelError) return 0;
    throw error;
  }
}
