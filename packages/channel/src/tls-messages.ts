/**
 * Messages between the coordinator and the TLS thread: all of them.
 *
 * The thread gets its terms when it starts. `ended` is posted before the pair
 * shows the end of the stream, so whoever meets that end can wait for the reason.
 */
import type { ErrorDescription } from "@multifd/protocol";

export type TlsOrder =
  /** Do the handshake on `socket`, then carry bytes between it and `plain`; both descriptors are the thread's from here on. */
  | {
      readonly kind: "carry";
      readonly connection: number;
      readonly socket: number;
      readonly plain: number;
      /** For the handshake; 0 where somebody else watches the clock. */
      readonly timeoutMs: number;
    }
  /** Its owner has let go of it: say goodbye within bounds, or give the handshake up. */
  | { readonly kind: "leave"; readonly connection: number }
  /** No more will come: end with the last connection. */
  | { readonly kind: "end" };

export type TlsNews =
  | { readonly kind: "secured"; readonly connection: number }
  /** The peer sends no more; `error` says why, null where it simply closed. */
  | { readonly kind: "ended"; readonly connection: number; readonly error: ErrorDescription | null };
