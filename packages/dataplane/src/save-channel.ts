/**
 * Save channel: one worker thread that writes a guest's pages straight into a snapshot.
 *
 * Claims packets of the round like a sending channel, and puts their pages where a
 * receiving one would: into their places of a mapped-ram file, or into frames of
 * a compressed one. Source and snapshot are on one machine, so a page is read
 * once and written once; over a socket it would be copied twice more
 * (bench/src/snapshot.ts has both ways).
 *
 * Blocks in read(2), write(2) and Atomics.wait; the coordinator ends it by stopping
 * the ring. Owns its packet block, frame writer and frame reader.
 */
import { PacketBlock, placePrepared, preparePacket } from "@multifd/native";
import { describeError, packetPagesMax, placeError } from "@multifd/protocol";
import { FrameSender } from "./frame-sender.js";
import { FrameWriter } from "./frame-writer.js";
import type { ChannelResult, SaveTask } from "./messages.js";
import { CLAIM, PACKET_KIND, PacketRing } from "./packet-ring.js";
import { PagePlacement } from "./page-placement.js";
import { COUNTER } from "./shared-words.js";

/** Runs a thread until the ring stops it. Never throws for what can happen to a file. */
export function runSaveChannel(task: SaveTask): ChannelResult {
  const saver = new PacketSaver(task);
  try {
    for (let round = 1; saver.ring.awaitRound(round); round++) {
      if (!saver.saveRound()) break;
    }
    return { ok: true };
  } catch (error) {
    const description = describeError(placeError(error, `thread ${task.channel}`));
    if (description === null) throw error;
    return { ok: false, error: description };
  } finally {
    saver.free();
    saver.ring.ring();
  }
}

class PacketSaver {
  readonly ring: PacketRing;
  readonly #task: SaveTask;
  readonly #packet = new PacketBlock();
  readonly #placement: PagePlacement;
  readonly #counters: Float64Array;
  readonly #countersAt: number;
  readonly #claimed = { kind: 0, block: 0, count: 0 };
  readonly #lengths: readonly bigint[];
  readonly #offsets: readonly bigint[];
  /** Null where no block goes into frames. */
  readonly #writer: FrameWriter | null;
  readonly #pageMaps: readonly (Int32Array | null)[];
  /** Made for the first frame that is read. */
  #frames: FrameSender | null = null;

  constructor(task: SaveTask) {
    const { pageBytes, blocks, places, log } = task;
    this.#task = task;
    this.#lengths = blocks.map(({ lengthBytes }) => BigInt(lengthBytes));
    this.#offsets = blocks.map(({ fileOffsetBytes }) => BigInt(fileOffsetBytes));
    this.ring = new PacketRing(packetPagesMax(pageBytes), task.ring);
    this.#placement = new PagePlacement(places, this.#packet, () => placePrepared(this.#packet));
    this.#writer = log === undefined ? null : new FrameWriter(log);
    this.#pageMaps = places.map(({ pageMap }) => (pageMap === undefined ? null : new Int32Array(pageMap)));
    this.#counters = new Float64Array(task.counters);
    this.#countersAt = task.channel * COUNTER.words;
    this.#packet.pageBytes = pageBytes;
  }

  free(): void {
    this.#writer?.free();
    this.#frames?.free();
  }

  /** Writes this thread's share of the open round. @returns false when told to give up. */
  saveRound(): boolean {
    const { ring } = this;
    for (;;) {
      const number = ring.claim();
      if (number === CLAIM.giveUp) return false;
      if (number === CLAIM.roundOver) break;
      ring.take(number, this.#claimed, this.#packet.pages);
      this.#saveClaimed();
      ring.markSent();
    }
    ring.arrive();
    return true;
  }

  #saveClaimed(): void {
    const packet = this.#packet;
    const { kind, block, count } = this.#claimed;
    if (kind === PACKET_KIND.frame) {
      this.#frames ??= new FrameSender(this.#task, packet, { zstd: 0, prepare: () => this.#prepare() });
      const [unit, live] = packet.pages;
      packet.pages.set(this.#frames.prepare(block, unit!, live!));
    } else if (kind === PACKET_KIND.zeroPages) {
      packet.normalPages = 0;
      packet.zeroPages = count;
    } else {
      packet.readFromFile(this.#task.blocks[block]!.file, this.#offsets[block]!, this.#lengths[block]!);
      packet.normalPages = count;
      packet.zeroPages = 0;
      this.#prepare();
    }
    this.#write(block);
  }

  /** Reads the pages that the packet lists, and tells those of zeros apart. */
  #prepare(): void {
    this.#packet.codec = this.#writer?.codec ?? 0;
    preparePacket(this.#packet, true);
  }

  #write(block: number): void {
    const packet = this.#packet;
    const { normalPages, zeroPages } = packet;
    let bytes = normalPages * packet.pageBytes;
    if (this.#writer === null) this.#placement.place(block, normalPages, zeroPages);
    else bytes = this.#writer.appendPages(packet, block, this.#pageMaps[block]!);
    const at = this.#countersAt;
    this.#counters[at + COUNTER.wireBytes]! += bytes;
    this.#counters[at + COUNTER.normalPages]! += normalPages;
    this.#counters[at + COUNTER.zeroPages]! += zeroPages;
  }
}
