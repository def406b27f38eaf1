/**
 * Messages between the coordinator and a range channel's thread: all of them.
 *
 * Orders are obeyed one after the other and each but `end` is answered once, in
 * the same order.
 */
import type { MessagePort } from "node:worker_threads";
import type { RangeBlockTarget } from "@multifd/native";
import type { ErrorDescription } from "@multifd/protocol";

/** `port` takes `RangeOrder` and gives `RangeAnswer`. */
export type RangeChannelTask = { readonly port: MessagePort };

/** A RAM block that pieces name by its place in the list. */
export type RangeBlockEntry = RangeBlockTarget;

export type RangeOrder =
  /** The socket to work on, borrowed, and its place among counters from `createCounters`. First of all, and again for another. */
  | {
      readonly kind: "attach";
      readonly descriptor: number;
      readonly counters: SharedArrayBuffer;
      readonly counter: number;
    }
  /** Before the first pieces. */
  | { readonly kind: "blocks"; readonly blocks: readonly RangeBlockEntry[] }
  | { readonly kind: "send"; readonly bytes: Uint8Array }
  /** Answered by so many bytes, fewer only where the stream ended. The length is checked before it gets here. */
  | { readonly kind: "receive"; readonly bytes: number }
  /** Borrowed until the answer. */
  | { readonly kind: "send-descriptor"; readonly bytes: Uint8Array; readonly descriptor: number }
  /** Answered by the bytes and what descriptors came with them, closed again beyond so many. */
  | { readonly kind: "receive-descriptors"; readonly bytes: number; readonly descriptorsMax: number }
  /** Triples in wire order: block, offset in it, length. A rate of 0 is no limit. */
  | { readonly kind: "send-ranges"; readonly pieces: Float64Array; readonly bytesPerSecond: number }
  /** `makeMissing`: whether the files are likely to lack these pages. */
  | { readonly kind: "receive-ranges"; readonly pieces: Float64Array; readonly makeMissing: boolean }
  | { readonly kind: "end" };

export type ReceivedDescriptors = { readonly bytes: Uint8Array; readonly descriptors: readonly number[] };

export type RangeValue = Uint8Array | ReceivedDescriptors | null;

export type RangeAnswer =
  | { readonly ok: true; readonly value: RangeValue }
  | { readonly ok: false; readonly error: ErrorDescription };
