/**
 * Source: moves a guest's RAM and device state to a peer, and lets the guest go last.
 *
 * The one rule above all others: until the destination has acknowledged the last
 * byte the guest is ours, and any failure resumes it; afterwards it never runs
 * here again. So the migration is in one of these phases, and each failure is
 * answered by the phase it meets:
 *
 *   running ──▶ paused ──▶ handed-over ──▶ acknowledged
 *      │           │            │
 *      │           │            ├ the destination says it failed: resume
 *      │           │            └ nobody says anything: ambiguous, stay paused
 *      │           └ resume
 *      └ the guest never noticed
 *
 * A guest that is handed over in two steps shortens the phase in which nobody can know:
 * the destination has loaded everything before the last byte leaves.
 *
 * `handed-over` begins when the last byte has left: from then on the destination
 * may be running the guest, so a lost acknowledgement is reported, not guessed at,
 * and a cancellation comes too late. A destination that cannot speak is taken at its
 * silence: the guest is gone, and the result says that nobody acknowledged it.
 *
 * Runs on the coordinator thread; owns the channels and the threads.
 */

import type { Channel } from "@multifd/channel";
import {
  createCounters,
  createZeroMarks,
  DeviceStage,
  PacketRing,
  type SendTask,
  sumCounters,
  takeZeroRuns,
} from "@multifd/dataplane";
import { DirtyBitmap } from "@multifd/memory";
import {
  ChannelError,
  type Compression,
  ConfigError,
  MigrationError,
  PACKET_GUEST_BYTES,
  packetPagesMax,
  placeError,
  ramPacketBytes,
  SystemError,
} from "@multifd/protocol";
import { ChannelThreads } from "./channel-threads.js";
import { Convergence } from "./convergence.js";
import { checkDeviceNames, DevicePump } from "./device-pump.js";
import { type EventSink, type MigrationResult, type MigrationTotals, tellOutcome } from "./events.js";
import { FirstFailure } from "./first-failure.js";
import type { DevicePart, RamFeed, SourceGuest } from "./guest.js";
import { Pacer } from "./pacer.js";
import { packetMethods } from "./packet-methods.js";
import type { RoundPhase, SourcePeer, ZeroPages } from "./peer.js";
import { ProgressMeter } from "./progress-meter.js";
import { RoundPublisher } from "./round-publisher.js";
import { StallWatch } from "./stall-watch.js";

export type SourceJob = {
  readonly guest: SourceGuest;
  readonly peer: SourcePeer;
  readonly onEvent: EventSink;
  readonly signal?: AbortSignal;
  readonly compression: Compression;
  /** For the method; ignored by `none`. */
  readonly level: number;
  /** What follows RAM on the main channel; null moves RAM and device-state packets only. */
  readonly devices: DevicePart | null;
  readonly downtimeLimitMs: number;
  /** Bytes per second on the channels, until a live guest is paused; 0 for no limit. */
  readonly maxBandwidth: number;
  /** Rounds while the guest runs. */
  readonly roundsMax: number;
  /** What to do when the guest has outrun the link for that long. */
  readonly atRoundLimit: "fail" | "switchover";
  /** Without a sign of life for this long the migration fails; 0 waits for ever. */
  readonly stallTimeoutMs: number;
};

type Phase = "running" | "paused" | "handed-over" | "acknowledged";

/**
 * Runs one migration to its end.
 *
 * Everything it opened is closed when it settles. Exactly one of `completed` and
 * `failed` is told to `onEvent`, last.
 *
 * @throws {MigrationError} what ended it. With code ACKNOWLEDGEMENT_LOST the guest is left paused, for it may be
 *   running at the destination; after any other failure it runs here as before.
 */
export function runSource(job: SourceJob): Promise<MigrationResult> {
  return tellOutcome(job.onEvent, () => new SourceMigration(job).run());
}

class SourceMigration {
  readonly #job: SourceJob;
  readonly #startedMs = performance.now();
  readonly #cpu = process.cpuUsage();
  readonly #abort = new AbortController();
  readonly #failure: FirstFailure;
  readonly #counters: SharedArrayBuffer;
  readonly #ring: PacketRing;
  readonly #stage = new DeviceStage();
  /** One per RAM block; null where zero pages go into packets. */
  readonly #zeroMarks: readonly SharedArrayBuffer[] | null;
  readonly #pageBytes: number;
  readonly #publisher: RoundPublisher;
  readonly #introducer: DevicePump;
  readonly #pump: DevicePump;
  readonly #pacer: Pacer;
  readonly #meter: ProgressMeter;
  readonly #threads: ChannelThreads;
  #channels: readonly Channel[] = [];
  #phase: Phase = "running";
  /** What is being done, for messages. */
  #step = "connecting";
  #acknowledged = false;
  #rounds = 0;
  #pausedMs: number | null = null;

  constructor(job: SourceJob) {
    const { guest, peer } = job;
    this.#job = job;
    this.#pageBytes = checkRam(guest);
    const pagesMax = packetPagesMax(this.#pageBytes);
    this.#threads = new ChannelThreads("send-channel", peer.channels);
    this.#counters = createCounters(peer.channels);
    this.#zeroMarks =
      peer.zeroPagesGo(job.devices) === "on-main"
        ? guest.ram.map(({ block }) => createZeroMarks(block.pageCount))
        : null;
    this.#ring = new PacketRing(pagesMax);
    this.#failure = new FirstFailure(() => {
      this.#abort.abort();
      this.#ring.ring();
    });
    this.#publisher = new RoundPublisher({
      ring: this.#ring,
      stage: this.#stage,
      ram: guest.ram,
      channels: peer.channels,
      pagesMax,
      failure: this.#failure,
    });
    const introduction = guest.introduction ?? [];
    checkDeviceNames([...introduction, ...guest.devices]);
    this.#introducer = new DevicePump(introduction, this.#publisher, this.#failure);
    this.#pump = new DevicePump(guest.devices, this.#publisher, this.#failure);
    const packetBytes = ramPacketBytes(this.#pageBytes) + PACKET_GUEST_BYTES;
    this.#pacer = new Pacer(job.maxBandwidth, packetBytes, performance.now());
    this.#meter = new ProgressMeter(job.onEvent, () => this.#totals(), this.#pageBytes);
  }

  async run(): Promise<MigrationResult> {
    const { peer, stallTimeoutMs, signal } = this.#job;
    const unwatch = this.#failure.watch(signal, () => this.#phase === "handed-over");
    const stall = new StallWatch(
      stallTimeoutMs,
      () => this.#totals().wireBytes + (this.#job.guest.feed?.signs ?? 0),
      () => this.#step,
      (error) => this.#failure.fail(error),
    );
    try {
      await this.#migrate();
      return this.#result();
    } catch (error) {
      this.#failure.fail(error); // if nothing failed before, this did
      throw await this.#settle(error);
    } finally {
      unwatch();
      stall.stop();
      this.#meter.stop();
      await this.#close();
      peer.close();
    }
  }

  async #migrate(): Promise<void> {
    const { peer, guest, devices } = this.#job;
    const blocks = guest.ram.map(({ block, sharedAt }) => (sharedAt === undefined ? block : { ...block, sharedAt }));
    await this.#connect();
    const verdict = peer.verdict();
    // An early word of the destination is always a refusal; it outranks the broken channels that follow it.
    verdict.catch((error: unknown) => this.#failure.fail(error));

    this.#step = "setting up";
    await this.#failure.race(peer.begin(blocks, devices));
    this.#startChannels();
    await this.#sendIntroduction();
    this.#meter.start();
    await this.#sendLast(await this.#precopy());
    if (guest.handOver === undefined) {
      this.#step = "sending the device part";
      await this.#failure.race(peer.finish(devices));
      this.#phase = "handed-over";
    } else {
      await this.#confirm("waiting for the destination to load the guest");
      await this.#handOver(() => guest.handOver!());
    }
    this.#step = "waiting for the destination's word";
    this.#acknowledged = await this.#failure.race(verdict);
    this.#phase = "acknowledged";
  }

  /** Nothing of the guest moves before the destination has agreed, where it is to. */
  async #sendIntroduction(): Promise<void> {
    const { introduction } = this.#job.guest;
    const step = "waiting for the destination to agree"; // it may refuse at the first word
    if (introduction !== undefined) this.#step = step;
    const companions = introduction ? this.#introducer.sendRest() : null;
    companions?.catch(() => {}); // it has told its failure
    await this.#sendRound([], companions, "setup");
    await this.#closeRound("setup");
    if (introduction !== undefined) await this.#confirm(step);
  }

  async #confirm(step: string): Promise<void> {
    const { peer } = this.#job;
    this.#step = step;
    if (peer.confirm === undefined) {
      throw new ConfigError("PEER_UNFIT", `${peer.name} cannot say when it has loaded a guest; this one needs that`);
    }
    await this.#failure.race(peer.confirm());
    this.#failure.check();
  }

  /** Nothing may come between giving the guest up and the last byte: neither is raced against a failure. */
  async #handOver(giveUp: () => void): Promise<void> {
    const { peer, devices } = this.#job;
    this.#step = "handing the guest over";
    this.#phase = "handed-over";
    try {
      giveUp();
      await peer.finish(devices);
    } catch (error) {
      this.#phase = "paused"; // it has not left
      throw error;
    }
  }

  async #connect(): Promise<void> {
    const { peer, onEvent } = this.#job;
    this.#channels = await this.#failure.race(peer.connect(this.#abort.signal));
    onEvent({ event: "connected", peer: peer.name, channels: this.#channels.length });
  }

  #startChannels(): void {
    const { peer, guest, compression, level } = this.#job;
    const methods = packetMethods(compression, peer.packetMethods, peer.name);
    const frames = guest.ram.find(({ pageMap }) => pageMap !== undefined)?.descriptor;
    const blocks = guest.ram.map(({ block, descriptor, offsetBytes, pageMap }, index) => ({
      name: block.name,
      file: pageMap ? -1 : descriptor,
      fileOffsetBytes: offsetBytes,
      lengthBytes: block.lengthBytes,
      zeroMarks: this.#zeroMarks?.[index] ?? null,
      ...(pageMap && { pageMap }),
    }));
    const tasks = this.#channels.map(
      (channel, index): SendTask => ({
        channel: index,
        descriptor: channel.descriptor,
        pageBytes: this.#pageBytes,
        compression,
        methods,
        level,
        blocks,
        ...(frames !== undefined && { frames }),
        ring: this.#ring.shared,
        stage: this.#stage.shared,
        counters: this.#counters,
      }),
    );
    this.#threads.start(this.#channels, tasks, (error) => this.#channelFailed(error));
  }

  /** When the destination goes away for a reason it says so on the main channel: wait a little for that word. */
  #channelFailed(error: unknown): void {
    const timer = setTimeout(() => this.#failure.fail(error), 500);
    timer.unref();
    if (!(error instanceof ChannelError)) this.#failure.fail(error);
  }

  /** Harvests from the running guest. Not cut short by a failure elsewhere: whoever holds transfers has to let them go. */
  async #hold(harvest: () => Promise<void>): Promise<void> {
    const { guest } = this.#job;
    await (guest.holdTransfers === undefined ? this.#failure.race(harvest()) : guest.holdTransfers(harvest));
  }

  /** Sends rounds while the guest runs. @returns what is left for the last round, the guest paused. */
  async #precopy(): Promise<readonly DirtyBitmap[]> {
    const { guest, onEvent } = this.#job;
    const { tracker } = guest;
    const blocks = guest.ram.map((ram) => ram.block);
    const dirty = blocks.map((block) => new DirtyBitmap(block.pageCount));
    const fill = () => {
      for (const [block, bitmap] of dirty.entries()) if (!this.#isShared(block)) bitmap.fill();
    };
    if (tracker === null) {
      fill();
      return dirty;
    }
    const convergence = new Convergence(this.#job);
    await this.#hold(() => tracker.start(blocks));
    if (guest.feed !== undefined) return this.#passOn(guest.feed, dirty);
    fill();
    const running = this.#pump.sendRunning();
    running.catch(() => {}); // it has told its failure
    let companions: Promise<void> | null = null;
    for (;;) {
      const before = sumCounters(this.#counters).normalPages;
      const startedMs = performance.now();
      await this.#sendRound(dirty, companions, "iterate");
      await this.#closeRound("iterate");
      const elapsedMs = performance.now() - startedMs;
      const normalBytes = (sumCounters(this.#counters).normalPages - before) * this.#pageBytes;
      await this.#hold(async () => this.#harvest(dirty));
      const dirtyPages = countPages(dirty);
      // A round that was kept open for the devices says nothing of the link.
      const figures = companions === null ? { normalBytes, elapsedMs } : { normalBytes: 0, elapsedMs: 0 };
      const verdict = convergence.judge(figures, dirtyPages * this.#pageBytes);
      this.#meter.expect(verdict.expectedDowntimeMs);
      if (verdict.kind === "another-round") continue;
      if (verdict.kind === "will-not-converge")
        throw willNotConverge(this.#job, verdict.expectedDowntimeMs, this.#rounds);
      if (this.#pump.isRunning) {
        companions = running;
        continue;
      }
      onEvent({
        event: "switchover",
        round: this.#rounds + 1,
        dirtyPages,
        expectedDowntimeMs: Math.round(verdict.expectedDowntimeMs),
      });
      await this.#pause();
      this.#harvest(dirty);
      return dirty;
    }
  }

  /** Sends what a feed brings, round by round. @returns what is left for the last round, the guest paused. */
  async #passOn(feed: RamFeed, dirty: readonly DirtyBitmap[]): Promise<readonly DirtyBitmap[]> {
    while (await this.#failure.race(feed.more())) {
      this.#harvest(dirty);
      await this.#sendRound(dirty, null, "iterate");
      await this.#closeRound("iterate");
      feed.sent();
      this.#step = "waiting for RAM to send";
    }
    this.#harvest(dirty);
    const dirtyPages = countPages(dirty);
    this.#job.onEvent({ event: "switchover", round: this.#rounds + 1, dirtyPages, expectedDowntimeMs: 0 });
    await this.#pause();
    return dirty;
  }

  #harvest(dirty: readonly DirtyBitmap[]): void {
    for (const [block, bitmap] of dirty.entries())
      if (!this.#isShared(block)) this.#job.guest.tracker?.harvest(block, bitmap);
  }

  #isShared(block: number): boolean {
    return this.#job.guest.ram[block]!.sharedAt !== undefined;
  }

  async #pause(): Promise<void> {
    this.#pausedMs = performance.now();
    // Before the call, not after it: a pause that fails half-way must be undone too.
    this.#phase = "paused";
    // Seen through, whatever fails meanwhile: a pause that ended after `resume` would leave the guest standing.
    await this.#job.guest.pause();
    this.#failure.check();
  }

  /** The guest stands still: sends what is left of its RAM and its devices. */
  async #sendLast(dirty: readonly DirtyBitmap[]): Promise<void> {
    const { guest } = this.#job;
    const rest = this.#pump.sendRest();
    rest.catch(() => {}); // it has told its failure
    await this.#sendRound(dirty, rest, "complete");
    if (guest.tracker !== null && guest.devices.some(({ savesIntoRam }) => savesIntoRam)) {
      this.#harvest(dirty);
      if (countPages(dirty) > 0) {
        await this.#closeRound("iterate");
        await this.#sendRound(dirty, null, "complete");
      }
    }
    await this.#closeRound("complete");
  }

  async #sendRound(dirty: readonly DirtyBitmap[], companions: Promise<void> | null, phase: RoundPhase): Promise<void> {
    const { onEvent } = this.#job;
    if (phase !== "setup") {
      this.#rounds++;
      this.#step = `sending round ${this.#rounds}${phase === "complete" ? ", the last" : ""}`;
      const dirtyPages = countPages(dirty);
      onEvent({ event: "round", round: this.#rounds, dirtyPages, dirtyBytes: dirtyPages * this.#pageBytes });
      this.#meter.round(dirtyPages);
    }
    // The last round of a live guest is its downtime: that goes as fast as it can.
    const paced = phase === "iterate" || this.#job.guest.tracker === null;
    await this.#publisher.sendRound(dirty, companions, () =>
      paced ? this.#packetsAllowed() : Number.POSITIVE_INFINITY,
    );
  }

  async #closeRound(phase: RoundPhase): Promise<void> {
    await this.#failure.race(this.#job.peer.closeRound(phase, this.#zeroPages()));
  }

  /** What the channels have marked in the round; to be asked for when all have arrived. */
  *#zeroPages(): Generator<ZeroPages> {
    if (this.#zeroMarks === null) return;
    const blocks = this.#job.guest.ram.map(({ block }) => block);
    const pageCounts = blocks.map(({ pageCount }) => pageCount);
    for (const { block, pages } of takeZeroRuns(this.#zeroMarks, pageCounts)) yield { block: blocks[block]!, pages };
  }

  #packetsAllowed(): number {
    const outstanding = this.#ring.publishedPackets - this.#ring.sentPackets;
    return this.#pacer.packetsAllowed(performance.now(), sumCounters(this.#counters).wireBytes, outstanding);
  }

  /** Answers a failure by the phase it met. @returns the error to tell. */
  async #settle(seen: unknown): Promise<unknown> {
    const refused = seen instanceof MigrationError && seen.code === "PEER_REFUSED";
    const error = this.#explain(seen);
    if (this.#phase === "handed-over" && !refused) {
      const reason = seen instanceof Error ? seen.message : String(seen);
      return new ChannelError(
        "ACKNOWLEDGEMENT_LOST",
        `everything was sent, and then the destination's word was lost (${reason}); the guest stays paused here, for it may run there: look at the destination, then resume exactly one of the two`,
        { cause: seen },
      );
    }
    // First of all: what is still queued for the main channel could give the destination the whole guest, too.
    this.#job.peer.close();
    if (this.#pausedMs === null) return error;
    try {
      await this.#job.guest.resume();
      return error;
    } catch (cause) {
      return new SystemError(
        "RESUME_FAILED",
        `${(error as Error).message}; and the guest could not be resumed here: ${(cause as Error).message}`,
        { cause: error },
      );
    }
  }

  /** A link breaks, and a destination refuses, with few words: says at what, and where to look. */
  #explain(seen: unknown): unknown {
    if (!(seen instanceof MigrationError)) return seen;
    if (seen.code === "PEER_REFUSED") return placeError(seen, this.#step);
    if (seen.code !== "CHANNEL_BROKEN") return seen;
    const message = `${this.#step}: ${seen.message}; if the destination closed it, its own log says why`;
    return new ChannelError(seen.code, message, { cause: seen });
  }

  async #close(): Promise<void> {
    const acknowledged = this.#phase === "acknowledged";
    this.#ring.stop(acknowledged ? "end" : "giveUp");
    if (!acknowledged) this.#threads.shutDown();
    await this.#threads.close();
    for (const channel of this.#channels) channel.close(); // those that no thread was started for
    await this.#job.guest.tracker?.stop();
  }

  #totals(): MigrationTotals {
    const { guest, peer } = this.#job;
    const { wireBytes, normalPages, zeroPages } = sumCounters(this.#counters);
    const ramBytes = guest.ram.reduce((sum, ram) => sum + (ram.sharedAt === undefined ? ram.block.lengthBytes : 0), 0);
    return { ramBytes, wireBytes: wireBytes + peer.mainBytes, normalPages, zeroPages, rounds: this.#rounds };
  }

  #result(): MigrationResult {
    const now = performance.now();
    const cpu = process.cpuUsage(this.#cpu);
    return {
      event: "completed",
      ...this.#totals(),
      totalMs: Math.round(now - this.#startedMs),
      downtimeMs: this.#pausedMs === null ? null : Math.round(now - this.#pausedMs),
      cpuSeconds: (cpu.user + cpu.system) / 1e6,
      acknowledged: this.#acknowledged,
    };
  }
}

/** @returns the page size that all blocks share. */
function checkRam(guest: SourceGuest): number {
  const [first] = guest.ram;
  if (first === undefined) throw new ConfigError("NO_RAM", "there is no RAM block to send; name at least one");
  const odd = guest.ram.find((ram) => ram.block.pageBytes !== first.block.pageBytes);
  if (odd === undefined) return first.block.pageBytes;
  throw new ConfigError(
    "PAGE_SIZE",
    `RAM block "${odd.block.name}" has pages of ${odd.block.pageBytes} bytes, "${first.block.name}" of ${first.block.pageBytes}; a target has one page size`,
  );
}

function willNotConverge(job: SourceJob, expectedDowntimeMs: number, rounds: number): ConfigError {
  return new ConfigError(
    "WILL_NOT_CONVERGE",
    `after ${rounds} rounds the guest would still be down for ${Math.round(expectedDowntimeMs)} ms, ${job.downtimeLimitMs} ms are allowed; raise the downtime limit or the bandwidth, or let the round limit switch over`,
  );
}

function countPages(dirty: readonly DirtyBitmap[]): number {
  return dirty.reduce((sum, bitmap) => sum + bitmap.count(), 0);
}
