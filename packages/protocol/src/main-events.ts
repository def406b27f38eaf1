/**
 * Main events: what a main stream says, in the order it says it.
 *
 * One closed union, made by `decodeMainStream` and switched over by whoever
 * receives a migration. Bytes and arrays in an event belong to the receiver,
 * but for `page`, whose bytes are good only until the next event is asked for.
 */

import type { Hello } from "./hello.js";
import type { MappedRamPlace } from "./mapped-ram.js";

/** The part of RAM's transfer that a section belongs to. */
export type RamPhase = "setup" | "iterate" | "complete";

export type RamBlockListEntry = {
  readonly name: string;
  readonly lengthBytes: number;
  /** Where the block lies in its memory region; only with `x-ignore-shared`. */
  readonly address?: number;
  /** Where the block lies in the file; only in a snapshot. */
  readonly mapped?: MappedRamPlace;
};

export type MainEvent =
  | {
      readonly kind: "configuration";
      readonly machineType: string;
      /** Target page size, a power of two. */
      readonly pageBytes: number;
      readonly capabilities: readonly string[];
      readonly uuid: Uint8Array | null;
      /** The whole configuration as it came, section type included. */
      readonly bytes: Uint8Array;
    }
  | { readonly kind: "command"; readonly name: "open-return-path" | "switchover-start" }
  | { readonly kind: "command"; readonly name: "ping"; readonly value: number }
  /** `bytes`: how long the command was, all of it. */
  | { readonly kind: "command"; readonly name: "hello"; readonly hello: Hello; readonly bytes: number }
  /** Emitted as soon as the list is complete: the rest of the section may wait for a SYNC. */
  | { readonly kind: "ram-blocks"; readonly sectionId: number; readonly blocks: readonly RamBlockListEntry[] }
  /** MULTIFD_FLUSH: pairs with one SYNC of every channel; says nothing when there are none. Nothing behind it has been read. */
  | { readonly kind: "flush"; readonly phase: RamPhase }
  | { readonly kind: "zero-pages"; readonly block: string; readonly pages: Uint32Array }
  | { readonly kind: "page"; readonly block: string; readonly page: number; readonly bytes: Uint8Array }
  /** The RAM section's EOS: with legacy sync, pairs with one SYNC of every channel. Nothing behind it has been read. */
  | { readonly kind: "section-end"; readonly phase: RamPhase }
  /** The last event: all from the first device section (`at` in the stream) to the description's end, as it came. */
  | { readonly kind: "devices"; readonly at: number; readonly bytes: Uint8Array; readonly description: string };

/**
 * Where device state ends: `walked` takes only an end that every byte before it leads to; `described`
 * takes the end of the stream on its description's word, for whoever looks at a recorded stream that does not add up.
 */
export type TailCheck = "walked" | "described";

/** What a stream may make us hold; each is named in the error that it raises. */
export type MainStreamLimits = {
  readonly blocksMax: number;
  readonly ramBytesMax: number;
  /** Device sections and description together. */
  readonly deviceBytesMax: number;
  readonly descriptionBytesMax: number;
  readonly machineTypeBytesMax: number;
};

export const DEFAULT_LIMITS: MainStreamLimits = {
  blocksMax: 4096,
  ramBytesMax: 2 ** 50,
  deviceBytesMax: 2 ** 30,
  descriptionBytesMax: 64 * 2 ** 20,
  machineTypeBytesMax: 256,
};
