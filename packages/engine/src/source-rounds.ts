/**
 * Source rounds: sends one round after the other over the channels, and keeps their account.
 *
 * A round is published through the ring, paced where the guest still runs, closed
 * by a SYNC on every channel and then by the peer's word for it on the main channel,
 * behind the zero pages that do not go in packets. What has been sent so far, in
 * pages and bytes, is summed here, for results, progress and the stall watch.
 *
 *   dirty pages, devices ──▶ publisher ──▶ ring ──▶ channel threads ──▶ SYNC ──▶ peer.closeRound
 *
 * When a round is sent, and why, is not decided here.
 *
 * Runs on the coordinator thread; owns the ring, the stage, the counters and the threads.
 */
import type { Channel } from "@multifd/channel";
import {
  announceLimit,
  createCounters,
  createZeroMarks,
  DeviceStage,
  PacketRing,
  type SaveTask,
  type SendTask,
  sumCounters,
  takeZeroRuns,
} from "@multifd/dataplane";
import { PACKET_GUEST_BYTES, packetPagesMax, ramPacketBytes } from "@multifd/protocol";
import type { Attempt } from "./attempt.js";
import { failAfterLastWord } from "./channel-failure.js";
import { ChannelThreads } from "./channel-threads.js";
import type { DirtyPages } from "./dirty-pages.js";
import type { MigrationTotals } from "./events.js";
import { Pacer } from "./pacer.js";
import { packetMethods } from "./packet-methods.js";
import type { RoundPhase, ZeroPages } from "./peer.js";
import type { PlacedRam } from "./placed-ram.js";
import { ProgressMeter } from "./progress-meter.js";
import { RoundPublisher } from "./round-publisher.js";
import { type SourceJob, sharedPageBytes } from "./source-job.js";

/** What a thread is told, whatever becomes of the pages. */
type CommonTask = Pick<SendTask & SaveTask, "pageBytes" | "blocks" | "frames" | "ring" | "counters">;

export class SourceRounds {
  readonly pageBytes: number;
  /** Devices' states go into whatever round is open. */
  readonly publisher: RoundPublisher;
  readonly meter: ProgressMeter;
  readonly #job: SourceJob;
  readonly #attempt: Attempt;
  readonly #counters: SharedArrayBuffer;
  readonly #ring: PacketRing;
  readonly #stage = new DeviceStage();
  /** One per RAM block; null where zero pages go into packets. */
  readonly #zeroMarks: readonly SharedArrayBuffer[] | null;
  readonly #pacer: Pacer;
  readonly #threads: ChannelThreads;
  #count = 0;
  #isPaced = true;

  /**
   * @param attempt  Told what is being done.
   * @throws {ConfigError} NO_RAM, PAGE_SIZE.
   */
  constructor(job: SourceJob, attempt: Attempt) {
    const { guest, peer } = job;
    this.#job = job;
    this.#attempt = attempt;
    this.pageBytes = sharedPageBytes(guest);
    const pagesMax = packetPagesMax(this.pageBytes);
    this.#threads = new ChannelThreads(peer.file ? "save-channel" : "send-channel", peer.channels);
    this.#counters = createCounters(peer.channels);
    this.#zeroMarks =
      peer.zeroPagesGo(job.devices) === "on-main"
        ? guest.ram.map(({ block }) => createZeroMarks(block.pageCount))
        : null;
    this.#ring = new PacketRing(pagesMax);
    this.publisher = new RoundPublisher({
      ring: this.#ring,
      stage: this.#stage,
      ram: guest.ram,
      channels: peer.channels,
      pagesMax,
      failure: attempt.failure,
    });
    const packetBytes = ramPacketBytes(this.pageBytes) + PACKET_GUEST_BYTES;
    this.#pacer = new Pacer(job.maxBandwidth, packetBytes, performance.now());
    this.meter = new ProgressMeter(job.onEvent, () => this.totals, this.pageBytes);
  }

  /** Rounds sent or under way; the one that introduces the channels is none. */
  get count(): number {
    return this.#count;
  }

  get totals(): MigrationTotals {
    const { guest, peer } = this.#job;
    const { wireBytes, normalPages, zeroPages } = sumCounters(this.#counters);
    const ramBytes = guest.ram.reduce((sum, ram) => sum + (ram.sharedAt === undefined ? ram.block.lengthBytes : 0), 0);
    return { ramBytes, wireBytes: wireBytes + peer.mainBytes, normalPages, zeroPages, rounds: this.#count };
  }

  /** Wakes whoever waits for the channels: something has failed. */
  wake(): void {
    this.#ring.ring();
  }

  /** Resolves when every thread stands ready to be started. */
  threadsReady(): Promise<void> {
    return this.#threads.ready();
  }

  /** Starts the threads, which wait for the first round. @param channels  Owned from here on. */
  start(channels: readonly Channel[]): void {
    const { peer, guest } = this.#job;
    const frames = guest.ram.find(({ pageMap }) => pageMap !== undefined)?.descriptor;
    const blocks = guest.ram.map(({ block, descriptor, offsetBytes, pageMap }, index) => ({
      name: block.name,
      file: pageMap ? -1 : descriptor,
      fileOffsetBytes: offsetBytes,
      lengthBytes: block.lengthBytes,
      zeroMarks: this.#zeroMarks?.[index] ?? null,
      ...(pageMap && { pageMap }),
    }));
    const common: CommonTask = {
      pageBytes: this.pageBytes,
      blocks,
      ...(frames !== undefined && { frames }),
      ring: this.#ring.shared,
      counters: this.#counters,
    };
    const tasks = peer.file ? this.#saveTasks(common, peer.file.places) : this.#sendTasks(common, channels);
    this.#threads.start(channels, tasks, (error) => failAfterLastWord(this.#attempt.failure, error));
  }

  /** One per channel. */
  #sendTasks(common: CommonTask, channels: readonly Channel[]): readonly SendTask[] {
    const { peer, compression, level } = this.#job;
    const methods = packetMethods(compression, peer.packetMethods, peer.name);
    return channels.map(({ descriptor }, channel) => ({
      ...common,
      channel,
      descriptor,
      compression,
      methods,
      level,
      stage: this.#stage.shared,
    }));
  }

  #saveTasks(common: CommonTask, placed: PlacedRam): readonly SaveTask[] {
    const places = placed.receiveBlocks();
    const { frames: log } = placed;
    return Array.from({ length: this.#job.peer.channels }, (_, channel) => ({
      ...common,
      channel,
      places,
      ...(log && { log }),
    }));
  }

  /** The round without pages that introduces every channel. @param companions  As for `send`. */
  async setUp(companions: Promise<void> | null): Promise<void> {
    await this.#publish(null, companions, "setup");
    await this.close("setup");
  }

  /**
   * Sends a round on all channels; `close` is still to follow.
   *
   * @param dirty       What it holds; emptied.
   * @param companions  The round stays open until this resolves: device states that are published meanwhile.
   */
  async send(dirty: DirtyPages, companions: Promise<void> | null, phase: "iterate" | "complete"): Promise<void> {
    const round = ++this.#count;
    this.#attempt.step = `sending round ${round}${phase === "complete" ? ", the last" : ""}`;
    const dirtyPages = dirty.count;
    this.#job.onEvent({ event: "round", round, dirtyPages, dirtyBytes: dirtyPages * this.pageBytes });
    this.meter.round(dirtyPages);
    await this.#publish(dirty, companions, phase);
  }

  async #publish(dirty: DirtyPages | null, companions: Promise<void> | null, phase: RoundPhase): Promise<void> {
    // The last round of a live guest is its downtime: that goes as fast as it can.
    const isPaced = () => this.#isPaced && (phase === "iterate" || this.#job.guest.tracker === null);
    announceLimit(this.#counters, isPaced() ? this.#job.maxBandwidth : 0);
    await this.publisher.sendRound(dirty?.bitmaps ?? [], companions, () =>
      isPaced() ? this.#packetsAllowed() : Number.POSITIVE_INFINITY,
    );
  }

  #packetsAllowed(): number {
    const outstanding = this.#ring.publishedPackets - this.#ring.sentPackets;
    return this.#pacer.packetsAllowed(performance.now(), sumCounters(this.#counters).wireBytes, outstanding);
  }

  /** The guest stands still: what is under way, and what follows, goes as fast as it can. */
  hurry(): void {
    this.#isPaced = false;
    announceLimit(this.#counters, 0);
    this.wake();
  }

  /** Every channel has written its SYNC: says so on the main channel. */
  async close(phase: RoundPhase): Promise<void> {
    await this.#attempt.failure.race(this.#job.peer.closeRound(phase, this.#zeroPages()));
  }

  /** What the channels have marked in the round; to be asked for when all have arrived. */
  *#zeroPages(): Generator<ZeroPages> {
    if (this.#zeroMarks === null) return;
    const blocks = this.#job.guest.ram.map(({ block }) => block);
    const pageCounts = blocks.map(({ pageCount }) => pageCount);
    for (const { block, pages } of takeZeroRuns(this.#zeroMarks, pageCounts)) yield { block: blocks[block]!, pages };
  }

  /** Lets every thread return, and frees it. @param outcome  Whether the channels end well or are cut off. */
  async stop(outcome: "end" | "giveUp"): Promise<void> {
    this.meter.stop();
    this.#ring.stop(outcome);
    if (outcome === "giveUp") this.#threads.shutDown();
    await this.#threads.close();
  }
}
