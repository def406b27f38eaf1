/**
 * Messages between the coordinator and the channel threads: all of them.
 *
 * A worker gets a muster task when it starts and a channel's task when that opens,
 * and answers each once.
 * In between the two sides meet in shared memory only; the one thing a worker
 * posts is a device's state, which has no place there.
 */
import type { MessagePort } from "node:worker_threads";
import type { Mapping, PlaceTarget } from "@multifd/native";
import type { Compression, ErrorDescription, PacketMethod } from "@multifd/protocol";
import type { FrameLog } from "./frame-log.js";

/** The first task of every thread. */
export type MusterTask = {
  /** One 32-bit word: how many have come. */
  readonly present: SharedArrayBuffer;
  readonly threads: number;
};

/** A RAM block as a sending thread sees it. Shared by index with the ring's slots. */
export type SendBlock = {
  readonly name: string;
  /** Open for reading; the block begins at that offset. -1 where the pages are in frames. */
  readonly file: number;
  readonly fileOffsetBytes: number;
  readonly lengthBytes: number;
  /** From `createZeroMarks`, where zero pages do not go into packets; else null. */
  readonly zeroMarks: SharedArrayBuffer | null;
  /** Set where the pages lie in frames of `SendTask.frames`; as in `frame-log.ts`. */
  readonly pageMap?: SharedArrayBuffer;
};

export type SendTask = {
  readonly channel: number;
  /** Borrowed: the coordinator shuts it down and closes it. */
  readonly descriptor: number;
  readonly pageBytes: number;
  readonly compression: Compression;
  /** Those that a packet may bear; more than one after a hello only. */
  readonly methods: readonly PacketMethod[];
  /** For the method; 0 where it takes none. */
  readonly level: number;
  readonly blocks: readonly SendBlock[];
  /** A compressed snapshot, open for reading, that blocks with a page map are in. */
  readonly frames?: number;
  /** `PacketRing.shared`. */
  readonly ring: SharedArrayBuffer;
  /** `DeviceStage.shared`. */
  readonly stage: SharedArrayBuffer;
  /** From `createCounters`. */
  readonly counters: SharedArrayBuffer;
};

/** A RAM block as whoever places its pages sees it. */
export type ReceiveBlock = {
  readonly name: string;
  readonly lengthBytes: number;
  readonly target: PlaceTarget;
  /** One bit per page that may hold something other than zeros; shared by all channels. */
  readonly written: SharedArrayBuffer;
  /**
   * What becomes of a page that turned zero: written over, or only struck off `written`, in a file
   * that says itself which of its pages count. The former unless given.
   */
  readonly zeroPages?: "cleared" | "struck-off";
  /** Set where every page that came is to be marked, zeros too: one bit each. */
  readonly arrived?: SharedArrayBuffer;
  /** Set where pages are appended to `ReceiveTask.frames`: there is no file to place them in then. */
  readonly pageMap?: SharedArrayBuffer;
};

export type ReceiveTask = {
  readonly channel: number;
  /** Borrowed: the coordinator shuts it down and closes it. */
  readonly descriptor: number;
  readonly pageBytes: number;
  /** Those that a packet may bear; more than one after a hello only. */
  readonly methods: readonly PacketMethod[];
  readonly blocks: readonly ReceiveBlock[];
  /** `SyncBarrier.shared`; its number of channels. */
  readonly barrier: SharedArrayBuffer;
  readonly channels: number;
  readonly counters: SharedArrayBuffer;
  /** Where blocks with a page map go. */
  readonly frames?: FrameLog;
  /** Takes `DeviceStateArrived`. */
  readonly devices: MessagePort;
};

/** A thread that writes a guest into files of this process: no wire lies between. */
export type SaveTask = {
  readonly channel: number;
  readonly pageBytes: number;
  readonly blocks: readonly SendBlock[];
  /** A compressed snapshot, open for reading, that blocks with a page map are in. */
  readonly frames?: number;
  /** Where the blocks go, by their index. */
  readonly places: readonly ReceiveBlock[];
  /** Where places with a page map go. */
  readonly log?: FrameLog;
  /** `PacketRing.shared`. */
  readonly ring: SharedArrayBuffer;
  readonly counters: SharedArrayBuffer;
};

/** What the threads of both sides of a relay share. */
type RelayTask = {
  readonly channel: number;
  /** Borrowed: the coordinator shuts it down and closes it. */
  readonly descriptor: number;
  readonly pageBytes: number;
  /** Those that a packet may bear; more than one after a hello only. */
  readonly methods: readonly PacketMethod[];
  readonly blocks: readonly { readonly name: string; readonly lengthBytes: number }[];
  /** `RelaySlots.shared`; the channels of both sides, which it was made for. */
  readonly slots: SharedArrayBuffer;
  readonly allChannels: number;
  /** The slots' own, `SLOT_BYTES` each. */
  readonly memory: Mapping;
  readonly counters: SharedArrayBuffer;
};

export type RelayReceiveTask = RelayTask & {
  readonly side: "incoming";
  /** `SyncBarrier.shared`; its number of channels. */
  readonly barrier: SharedArrayBuffer;
  readonly channels: number;
};

export type RelaySendTask = RelayTask & {
  readonly side: "outgoing";
  readonly compression: Compression;
  /** For the method; 0 where it takes none. */
  readonly level: number;
};

/** A device-state packet, posted by a receiving thread, its payload transferred; answered by admitting it at the barrier. */
export type DeviceStateArrived = {
  readonly channel: number;
  readonly idstr: string;
  readonly instanceId: number;
  readonly bytes: Uint8Array<ArrayBuffer>;
};

/** How a channel thread ended: of itself or because it was told to (ok), or with what went wrong. */
export type ChannelResult = { readonly ok: true } | { readonly ok: false; readonly error: ErrorDescription };
