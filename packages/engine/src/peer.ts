/**
 * Peers: how one kind of foreign program talks, as the engine needs it.
 *
 * The engine runs rounds, workers and guests; a peer knows the main channel's
 * language and who connects to whom. The engine owns the packet channels a peer
 * returns; the peer owns the main channel.
 *
 * Declared by the engine, brought by the peer packages.
 */
import type { Channel } from "@multifd/channel";
import type { RamBlock } from "@multifd/memory";
import type { PacketMethod } from "@multifd/protocol";
import type { DevicePart } from "./guest.js";
import type { PlacedRam } from "./placed-ram.js";

/** A RAM block as a source lists it. */
export type ListedBlock = RamBlock & {
  /** As in `RamSource`: the destination has its bytes already. */
  readonly sharedAt?: number;
};

/** Pages of one RAM block that are all zero; `pages` is good until the next run is asked for. */
export type ZeroPages = { readonly block: RamBlock; readonly pages: Uint32Array };

/** How long a source waits for a destination's word that everything is loaded. */
export const LOADED_MS = 30_000;
/**
 * How long a destination that has given it waits for the source's last byte: longer than the source may take to
 * act on an answer, so that one that acts in time is never acted on too late.
 */
export const HAND_OVER_MS = 2 * LOADED_MS;

/** Which SYNC a record on the main channel pairs with. */
export type RoundPhase = "setup" | "iterate" | "complete";

/** The other end is a destination. */
export interface SourcePeer {
  /** For events and messages: `multifd at unix:/run/a.sock`. */
  readonly name: string;
  readonly channels: number;
  /** Bytes of the main channel so far. */
  readonly mainBytes: number;
  /** Connects everything and introduces each channel: ready for packets. May be given up through `signal`. */
  connect(signal: AbortSignal): Promise<readonly Channel[]>;
  /** Whether the destination of these devices takes zero pages in packets, or only from `closeRound`. */
  zeroPagesGo(devices: DevicePart | null): "in-packets" | "on-main";
  /**
   * Set where nothing crosses a wire: threads of this process write the pages into their places, which are there
   * after `begin`. There are no channels to connect then.
   */
  readonly file?: { readonly places: PlacedRam };
  /** After `begin`: the methods that packets may bear each on its own; null where all bear the one that is configured. */
  readonly packetMethods: readonly PacketMethod[] | null;
  /** Says what will come, up to the list of RAM blocks. `devices` is null where only RAM moves. Call after `verdict`. */
  begin(blocks: readonly ListedBlock[], devices: DevicePart | null): Promise<void>;
  /**
   * Every channel has written the SYNC that closes a round: says so on the main channel, behind the round's
   * `zeroPages` that were not in packets.
   */
  closeRound(phase: RoundPhase, zeroPages: Iterable<ZeroPages>): Promise<void>;
  /**
   * Asks whether everything sent so far is loaded, and resolves when the destination says so. Left out by peers
   * that cannot ask; guests that need the answer cannot go there.
   *
   * @throws {ChannelError} NOT_LOADED, when the answer took longer than `LOADED_MS`, be it our own standing still.
   */
  confirm?(): Promise<void>;
  /**
   * Writes everything behind RAM. When it resolves the last byte has left for
   * the destination; when it rejects the destination cannot have the whole.
   */
  finish(devices: DevicePart | null): Promise<void>;
  /**
   * The destination's word. Resolves once it has taken the guest over; rejects
   * with PEER_REFUSED when it says that it failed, with another error when the
   * main channel broke. Settles at any time from `connect` on; call once, then.
   *
   * @returns false where it cannot speak: then everything was sent, and no more is known.
   */
  verdict(): Promise<boolean>;
  /** Closes the main channel. Idempotent. */
  close(): void;
}

/** What a source says on its main channel, in order. */
export type SourceWord =
  /** What RAM there is; comes once, before any page. */
  | { readonly kind: "ram-blocks"; readonly blocks: readonly RamBlock[] }
  /** Every channel has sent one more SYNC: wait for it, then let them go on. */
  | { readonly kind: "sync"; readonly phase: RoundPhase }
  /** The source waits to hear that everything before this is loaded. */
  | { readonly kind: "confirm"; readonly answer: () => Promise<void> }
  /** Pages that are all zeros (`bytes` null) or that came in `bytes`. */
  | { readonly kind: "pages"; readonly block: number; readonly pages: Uint32Array; readonly bytes: Uint8Array | null }
  /** The device part; nothing follows. */
  | { readonly kind: "devices"; readonly devices: DevicePart };

/** The other end is a source. */
export interface DestinationPeer {
  readonly name: string;
  readonly channels: number;
  readonly mainBytes: number;
  /**
   * Waits for the main channel and every channel; the result is ordered by channel number.
   *
   * @param onSurplus  Told, before the words have ended, when the source opens one channel more: what it sends there is lost.
   */
  accept(signal: AbortSignal, onSurplus: (error: unknown) => void): Promise<readonly Channel[]>;
  /** After `ram-blocks`: the methods that packets may bear each on its own; null where all bear the one that is configured. */
  readonly packetMethods: readonly PacketMethod[] | null;
  /** What the source says. Ends after `devices`, and throws where the stream breaks. */
  words(): AsyncIterator<SourceWord>;
  /** Tells the source that the guest is ours. @returns false where it did not ask to be told. */
  acknowledge(): Promise<boolean>;
  /** Tells the source that we failed, as far as it still listens, once it can bear it. Never rejects. */
  refuse(): Promise<void>;
  /** Closes the main channel and stops listening. Idempotent. */
  close(): void;
}
