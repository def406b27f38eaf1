/**
 * Guests: what the engine asks of the machine that moves.
 *
 * Until the destination has acknowledged the last byte the source owns the
 * guest and any failure resumes it; afterwards it never runs at the source
 * again. The engine keeps that rule; the implementations here below only obey:
 * `resume` is called at most once per `pause`, and never after an acknowledgement.
 *
 * Declared by the engine, brought by whoever embeds it.
 */
import type { FrameLog } from "@multifd/dataplane";
import type { DirtyBitmap, DirtyTracker, RamBlock } from "@multifd/memory";

/** What a device with a state beside RAM is called, at both ends. */
export type DeviceName = {
  /** 1…255 bytes of UTF-8. */
  readonly idstr: string;
  readonly instanceId: number;
};

/**
 * A device at the source, whose state goes down the channels as device-state packets.
 *
 * A state is any number of bytes in pieces of any size; the next piece is asked for when there is room for it.
 * A piece is the engine's from then on. When the migration fails the iterator's `return` is called, and not waited
 * for. An iterator that throws fails the migration.
 */
export interface DeviceStateProvider extends DeviceName {
  /**
   * What can be saved while the guest still runs, from the first round on; not called for a guest that has been
   * stopped. The guest is paused when it has come to its end, so it has to come.
   */
  saveRunning?(): AsyncIterable<Uint8Array>;
  /**
   * The rest, while the guest is paused; goes behind what `saveRunning` gave. Of a guest that stops soon it is asked
   * for with `stopSoon`: it then begins while the guest still runs.
   */
  save(): AsyncIterable<Uint8Array>;
  /** Set where a piece is to leave when it comes, for somebody loads it meanwhile; else pieces are gathered into full packets. */
  readonly sendsAtOnce?: boolean;
  /** Set where `save` may write guest RAM: it is harvested again then, and sent once more. */
  readonly savesIntoRam?: boolean;
}

/** A RAM block's bytes at the source. */
export type RamSource = {
  readonly block: RamBlock;
  /** Open for reading, shared with the guest; stays the guest's to close. */
  readonly descriptor: number;
  /** Where the block begins in that file. */
  readonly offsetBytes: number;
  /**
   * Set where the destination maps the same memory (QEMU: x-ignore-shared): the block is listed, at this address of
   * the machine's RAM, and no page of it is sent.
   */
  readonly sharedAt?: number;
  /** Set where only these pages count; the others are zeros, whatever the file holds in their places. */
  readonly present?: DirtyBitmap;
  /**
   * Set where the file is a compressed snapshot: the unit of each page's frame (`@multifd/dataplane`, frame-log.ts).
   * All blocks that have one are in the same file.
   */
  readonly pageMap?: SharedArrayBuffer;
};

/**
 * RAM that arrives here while it is being sent on: whoever brings it decides when a round begins and when the guest
 * stands still. Its tracker reports what has arrived and nothing else: RAM begins as zeros at both ends.
 */
export interface RamFeed {
  /** Resolves to true when there are pages for a round, to false when all have come and no more will. */
  more(): Promise<boolean>;
  /** What was harvested for the latest round has left on every channel. */
  sent(): void;
  /** Changes with every sign of life of whoever brings the RAM. */
  readonly signs: number;
}

export interface SourceGuest {
  readonly ram: readonly RamSource[];
  /** Null: nobody writes this RAM any more, one round is all. */
  readonly tracker: DirtyTracker | null;
  /**
   * Set where something writes RAM that the tracker sees begin but not end, such as a disk that is read past the page
   * cache: runs `harvest` while nothing of that kind is under way, and lets the guest go on before it settles.
   */
  holdTransfers?(harvest: () => Promise<void>): Promise<void>;
  /** Set where RAM only passes through; there is a tracker then, and convergence is somebody else's business. */
  readonly feed?: RamFeed;
  /**
   * Set where the guest takes a while to be stopped: has it stop at the next occasion, and resolves when no vCPU runs.
   * Until then rounds go on. `pause` follows; so does `resume`, if anything fails.
   */
  stopSoon?(): Promise<void>;
  /** Resolves when no vCPU runs and no write is outstanding. */
  pause(): Promise<void>;
  /** Undoes `pause`: the migration failed and the guest goes on here. */
  resume(): Promise<void>;
  /** Its devices with a state that does not travel with `DevicePart`. */
  readonly devices: readonly DeviceStateProvider[];
  /** Where the destination has to agree before RAM moves: what it is to judge, as devices of their own. */
  readonly introduction?: readonly DeviceStateProvider[];
  /**
   * Gives the guest up. Where a guest has this, it is handed over in two steps: the destination says that it has
   * loaded everything and runs nothing; then this is called; then the last byte leaves, which sets the guest running
   * there. Synchronous, so that as little as possible can happen in between; `resume` must be able to undo it.
   */
  handOver?(): void;
}

/** Where a RAM block's pages go at the destination. */
export type RamPlacement = {
  readonly block: RamBlock;
  /** Open for reading and writing; at least the block long. */
  readonly descriptor: number;
  /**
   * `file`: pages are written with pwrite. `mapping`: into a mapping, for files
   * that take no write(2), such as hugetlbfs; their storage is reserved beforehand.
   * `nowhere`: the block is shared with the source, which sends no page of it, and one that comes is refused.
   */
  readonly through: "file" | "mapping" | "nowhere";
  /** Whether everything reads as zero: then a page's first zero needs no write. */
  readonly startsZeroed: boolean;
  /** Where the block begins in the file; 0 unless given. */
  readonly fileOffsetBytes?: number;
  /**
   * Set where the guest itself tells which pages count: one bit each, in 32-bit words, set for every page
   * that is written and cleared for one that turned zero. Nothing is written for that one then.
   */
  readonly present?: SharedArrayBuffer;
  /**
   * Set where the guest wants to know what came, be it zeros: one bit per page, in whole 64-bit words. The marks
   * of a round are all there when it is in.
   */
  readonly arrived?: SharedArrayBuffer;
  /** Set where pages are appended to a compressed snapshot: its log, the same for all blocks, and the block's account. */
  readonly frames?: { readonly log: FrameLog; readonly pageMap: SharedArrayBuffer };
};

export interface DestinationGuest {
  /** Called once with the stream's block list; the placements answer it one by one. */
  placeRam(blocks: readonly RamBlock[]): Promise<readonly RamPlacement[]>;
  /**
   * A device's state arrives: called once per device when its first bytes are there, for several devices at a time,
   * and done with all of them before `commit`.
   *
   * @param state  In order, cut where it fits; comes no faster than it is read. Throws when the migration fails.
   *   Need not be read to its end. A rejection fails the migration.
   */
  loadDeviceState(device: DeviceName, state: AsyncIterable<Uint8Array>): Promise<void>;
  /** A round is in, and no page of the next comes before this resolves. A rejection fails the migration. */
  roundIn?(): Promise<void>;
  /** The device part of the main channel, verbatim, as the peer that read it describes it. */
  loadDevices(devices: DevicePart): Promise<void>;
  /**
   * The source asks, before its last byte, whether all is loaded; a rejection fails the migration. No
   * guest may run yet. Left out where there is nothing to load before `commit`.
   */
  prepare?(): Promise<void>;
  /**
   * Everything has been applied: take the guest over. Only when this resolves
   * is the source told, and the guest is lost to it; a rejection fails the migration. With code ACKNOWLEDGEMENT_LOST
   * nobody knows whether it runs, and the source is told nothing.
   */
  commit(): Promise<void>;
  /**
   * The migration failed: nothing that was written may be mistaken for a guest, and
   * no guest may run here once this resolves. Never rejects.
   */
  abandon(): Promise<void>;
}

/** The device part of a main channel, which the engine carries and does not read. */
export type DevicePart = {
  readonly machineType: string;
  /** The number under which the source listed its RAM section; the other sections' numbers differ from it. */
  readonly ramSectionId: number;
  /** The configuration section, verbatim. */
  readonly configuration: Uint8Array;
  /** All sections behind RAM, end mark and description, verbatim. */
  readonly sections: Uint8Array;
};
