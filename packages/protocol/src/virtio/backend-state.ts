/**
 * Back-end state: what a vhost-user back-end saved of itself, inside its device's section.
 *
 *   { length, bytes }… │ length 0
 *
 * QEMU writes pieces as they come out of the back-end's pipe, up to 1 MiB
 * each; where they were cut says nothing but is kept, so that they are
 * written again as they were.
 *
 * Source: QEMU 10.2, hw/virtio/vhost.c, vhost_save_backend_state().
 */

import type { ByteWriter } from "../byte-writer.js";
import type { StateReader } from "./state-reader.js";
import type { SubsectionFormat } from "./subsections.js";

/** The pieces in order; joined, they are what the back-end wrote. */
export type BackendState = readonly Uint8Array[];

export function backendStateSubsection(name: string): SubsectionFormat<BackendState> {
  return { name, versions: [0], read: readBackendState, write: writeBackendState };
}

function readBackendState(reader: StateReader): BackendState {
  const what = "back-end state";
  const pieces: Uint8Array[] = [];
  // Ends: each turn takes four bytes of the section at least.
  for (let bytes = reader.u32(what); bytes !== 0; bytes = reader.u32(what)) pieces.push(reader.bytes(bytes, what));
  return pieces;
}

function writeBackendState(out: ByteWriter, pieces: BackendState): void {
  for (const piece of pieces) out.u32(piece.length).bytes(piece);
  out.u32(0);
}

/** The back-end's state in one piece. */
export function joinBackendState(pieces: BackendState): Uint8Array<ArrayBuffer> {
  const whole = new Uint8Array(pieces.reduce((sum, piece) => sum + piece.length, 0));
  let at = 0;
  for (const piece of pieces) {
    whole.set(piece, at);
    at += piece.length;
  }
  return whole;
}
