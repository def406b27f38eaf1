/**
 * Relay peer: how a kind of foreign program talks, when a migration only passes through.
 *
 * Both ends speak the same language, so the main channel's words go on as they came;
 * what the engine must hear of them is what concerns the channels. The engine owns the
 * packet channels of both sides, the peer both main channels.
 *
 * Declared by the engine, brought by the peer packages.
 */
import type { Channel } from "@multifd/channel";
import type { RamBlock } from "@multifd/memory";
import type { PacketMethod } from "@multifd/protocol";
import type { RoundPhase } from "./peer.js";

/** What a source says on its main channel, as far as a relay must act on it. */
export type RelayWord =
  /** What RAM there is; comes once, before any page. */
  | { readonly kind: "ram-blocks"; readonly blocks: readonly RamBlock[] }
  /**
   * Every incoming channel has a SYNC for the record that comes next. It is passed on when the next word is asked
   * for, so every outgoing channel must have its own SYNC by then.
   */
  | { readonly kind: "sync"; readonly phase: RoundPhase }
  /** Pages on the main channel itself: they pass with it, and are told to be counted. */
  | { readonly kind: "pages"; readonly normalPages: number; readonly zeroPages: number }
  /** RAM is complete: no SYNC that may still come on a channel means anything. */
  | { readonly kind: "ram-end" }
  /** The stream is whole; asking for the next word passes its last bytes on. */
  | { readonly kind: "last" };

export interface RelayPeer {
  /** For events: `source at …`, `destination at …`. */
  readonly names: { readonly source: string; readonly destination: string };
  readonly channels: { readonly source: number; readonly destination: number };
  /** Of each side, after `ram-blocks`, as a `SourcePeer`'s and a `DestinationPeer`'s. */
  readonly packetMethods: {
    readonly source: readonly PacketMethod[] | null;
    readonly destination: readonly PacketMethod[] | null;
  };
  /** Bytes of each main channel so far, both ways. */
  readonly mainBytes: { readonly source: number; readonly destination: number };
  /** Whether the source has asked to be told how it ends; known when its words have ended. */
  readonly returnPath: boolean;
  /** Waits for the source's main channel and every channel; ordered by channel number. `onSurplus` as a `DestinationPeer`'s. */
  accept(signal: AbortSignal, onSurplus: (error: unknown) => void): Promise<readonly Channel[]>;
  /** Connects everything to the destination, after `accept`, and introduces each channel as the source did. */
  connect(signal: AbortSignal): Promise<readonly Channel[]>;
  /** What the source says; each word is passed on once the next is asked for. Throws where either side breaks. */
  words(): AsyncIterator<RelayWord>;
  /**
   * Passes on what the destination says. Resolves when it has taken the guest over and the source has been told,
   * or, without a return path, when it has closed behind the last word; rejects with PEER_REFUSED when it says that it failed
   * (the source knows then), with another error when it broke. Call once, after `connect`.
   */
  verdict(): Promise<void>;
  /** Breaks the destination's main channel: it must not get the rest. */
  cut(): void;
  /** Tells the source that we failed, as far as it still listens and does not know. Never rejects. */
  refuse(): Promise<void>;
  /** Closes both main channels and stops listening. Idempotent. */
  close(): void;
}
