/**
 * Source: moves a guest to Cloud Hypervisor, or to another of our own, and lets it go last.
 *
 * The rule is the engine's: until the destination has answered the last command
 * the guest is ours and any failure resumes it; afterwards it never runs here
 * again. An answer to that command that never comes leaves it paused and is
 * reported, for it may run there.
 *
 *   Start, Config        │ RAM passes until they converge │ pause, last pass │ State │ Complete
 *   Start, fds, Config   │                                │ pause            │ State │ Complete
 *   Start, Config, pause │ fault channel, served from now on until it closes │ State │ Complete
 *
 * Dirty pages are asked for before they are read, so a page written while it is
 * being sent comes again. The device snapshot may itself write guest RAM (vhost-user
 * devices drain then): what it wrote goes once more, to every era, since a
 * destination takes any number of Memory commands before State.
 *
 * Runs on the coordinator thread; owns the channels.
 * Source: Cloud Hypervisor 25.0 to 53.0, vmm/src/lib.rs, send_migration().
 */
import { type Address, formatAddress } from "@multifd/channel";
import { createCounters, sumCounters } from "@multifd/dataplane";
import {
  Convergence,
  FirstFailure,
  type MigrationResult,
  type MigrationTotals,
  ProgressMeter,
  type RamFeed,
  type RangeThread,
  RangeThreads,
  type SourceGuest,
  StallWatch,
  tellOutcome,
} from "@multifd/engine";
import { DirtyBitmap } from "@multifd/memory";
import { peekBytes } from "@multifd/native";
import {
  CHUNK_BYTES,
  ChannelError,
  CONNECTIONS_MAX,
  ConfigError,
  encodeConnectionRole,
  encodeRequest,
  type MemoryRangeTable,
  MigrationError,
  partitionRanges,
  placeError,
  RESPONSE_BYTES,
  readMemoryMappings,
  SystemError,
} from "@multifd/protocol";
import { connectChannels } from "./connect.js";
import { allocatedRam, dirtyRam, wholeRam } from "./dirty-tables.js";
import { ask, awaitAnswer, receiveExact, sendMemory } from "./exchange.js";
import { FaultService } from "./fault-service.js";
import { MemoryMap, PAGE_BYTES } from "./memory-map.js";
import { type CloudHypervisorSourceJob, checkHandOver, checkSourceTerms, matchRam } from "./source-job.js";
import { within } from "./within.js";

type Phase = "running" | "paused" | "handed-over" | "acknowledged";

/** How long a polite end may take: a command under way, and the answer to Abandon. */
const FAREWELL_MS = 1000;
const MAIN = 0;

/**
 * Runs one migration to its end; everything it opened is closed when it settles.
 *
 * Exactly one of `completed` and `failed` is told to `onEvent`, last.
 *
 * @throws {MigrationError} what ended it. With ACKNOWLEDGEMENT_LOST or PAGES_LOST the guest is left paused: it may
 *   run at the destination, or does; after any other failure it runs here as before.
 */
export function runCloudHypervisorSource(job: CloudHypervisorSourceJob): Promise<MigrationResult> {
  return tellOutcome(job.onEvent, () => new SourceMigration(job).run());
}

class SourceMigration {
  readonly #job: CloudHypervisorSourceJob;
  readonly #map: MemoryMap;
  readonly #ram: SourceGuest["ram"];
  readonly #startedMs = performance.now();
  readonly #cpu = process.cpuUsage();
  readonly #abort = new AbortController();
  readonly #failure = new FirstFailure(() => this.#abort.abort());
  readonly #counters = createCounters(CONNECTIONS_MAX + 2);
  readonly #threads: RangeThreads;
  readonly #meter: ProgressMeter;
  readonly #dirty: readonly DirtyBitmap[];
  /** Main channel first. */
  readonly #open: RangeThread[] = [];
  #faults: FaultService | null = null;
  #phase: Phase = "running";
  /** What is being done, for messages. */
  #step = "connecting";
  /** The command under way on the main channel; what is done on it next must wait for this. */
  #exchange: Promise<unknown> = Promise.resolve();
  #rounds = 0;
  #pausedMs: number | null = null;
  #downtimeMs: number | null = null;
  #expectedDowntimeMs = 0;

  constructor(job: CloudHypervisorSourceJob) {
    this.#job = job;
    this.#map = new MemoryMap(job.source.mappings ?? readMemoryMappings(job.source.config));
    checkSourceTerms(job, this.#map);
    this.#ram = matchRam(job.source, this.#map);
    this.#dirty = this.#map.blocks.map(({ block }) => new DirtyBitmap(block.pageCount));
    this.#threads = job.threads ?? new RangeThreads(job.channels === 1 ? 1 : job.channels + 1);
    this.#meter = new ProgressMeter(job.onEvent, () => this.#totals(), PAGE_BYTES);
  }

  async run(): Promise<MigrationResult> {
    const { stallTimeoutMs, signal } = this.#job;
    const unwatch = this.#failure.watch(signal, () => this.#phase === "handed-over" || this.#phase === "acknowledged");
    const stall = new StallWatch(
      stallTimeoutMs,
      () => this.#totals().wireBytes + (this.#job.source.guest.feed?.signs ?? 0),
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
    }
  }

  async #migrate(): Promise<void> {
    const { source, memory, handOver, onEvent, address, channels } = this.#job;
    await this.#connect(1, null);
    const main = this.#open[MAIN]!;
    onEvent({ event: "connected", peer: peerName(address), channels });
    await this.#say("start", ask(main, "start"));
    if (memory === "descriptors") await this.#passDescriptors(main);
    await this.#say("config", ask(main, "config", source.config));
    this.#useBlocks(main);
    this.#meter.start();
    switch (memory) {
      case "stream":
        await this.#connect(channels > 1 ? channels : 0, "memory");
        await this.#precopy();
        break;
      case "descriptors":
        await this.#pause(0);
        break;
      case "on-demand":
        await this.#pause(0);
        await this.#serveFaults();
        break;
    }
    this.#step = "taking the device snapshot";
    const state = await this.#failure.race(source.snapshot());
    if (memory === "stream") await this.#passAfterSnapshot();
    await this.#say("state", ask(main, "state", state));
    this.#step = "waiting to hand the guest over";
    const how = typeof handOver === "string" ? handOver : await this.#failure.race(handOver());
    checkHandOver(this.#job.era, how);
    await this.#handOver(main, how);
    this.#step = "serving the last pages";
    await this.#faults?.ended;
  }

  /** Opens channels, each introduced as its era wants; the first of all is the main channel. */
  async #connect(count: number, role: "memory" | "fault" | null): Promise<void> {
    const { era } = this.#job;
    if (count === 0) return;
    const opened = await this.#failure.race(connectChannels(this.#job, count, this.#abort.signal));
    for (const channel of opened) {
      const thread = this.#threads.take();
      const number = this.#open.length;
      thread.attach(channel, number === MAIN ? "main channel" : `channel ${number - 1}`, this.#counters, number);
      this.#open.push(thread);
      if (role === null) continue;
      this.#useBlocks(thread);
      if (era.connections === "with-role") await this.#failure.race(thread.send(encodeConnectionRole(role)));
    }
  }

  #useBlocks(thread: RangeThread): void {
    thread.useBlocks(
      this.#ram.map(({ block, descriptor, offsetBytes }) => ({
        lengthBytes: block.lengthBytes,
        file: descriptor,
        fileOffsetBytes: offsetBytes,
        address: 0,
        fresh: -1,
      })),
    );
  }

  async #passDescriptors(main: RangeThread): Promise<void> {
    for (const [index, { slot }] of this.#map.blocks.entries()) {
      const bytes = new Uint8Array(4);
      new DataView(bytes.buffer).setUint32(0, slot!, true);
      const exchange = async () => {
        const sent = main.send(encodeRequest("memoryFd", bytes.length));
        sent.catch(() => {}); // the answer tells, or its absence
        await main.sendDescriptor(bytes, this.#ram[index]!.descriptor);
        await awaitAnswer(main, "memoryFd");
      };
      await this.#say("memoryFd", exchange());
    }
  }

  /** Passes over RAM while the guest runs, pauses it, and sends what is left. */
  async #precopy(): Promise<void> {
    const { guest } = this.#job.source;
    const { tracker } = guest;
    if (tracker !== null) await this.#failure.race(tracker.start(this.#ram.map(({ block }) => block)));
    if (guest.feed !== undefined) return this.#passOn(guest.feed);
    for (const bitmap of this.#dirty) bitmap.fill();
    const first = this.#job.era.sparseFirstPass ? allocatedRam(this.#map, this.#ram) : wholeRam(this.#map);
    if (tracker === null) {
      await this.#sendPass(first, "running"); // nobody writes this RAM any more, so there is nobody to pause
      return;
    }
    await this.#converge(first);
    await this.#pauseAndHarvest();
    await this.#sendDirty("paused");
  }

  /** Sends what a feed brings, pass by pass, and pauses the guest when it brings no more. */
  async #passOn(feed: RamFeed): Promise<void> {
    while (await this.#failure.race(feed.more())) {
      this.#harvest();
      await this.#sendDirty("running");
      feed.sent();
      this.#step = "waiting for RAM to send";
    }
    await this.#pauseAndHarvest();
    await this.#sendDirty("paused");
  }

  async #converge(first: MemoryRangeTable): Promise<void> {
    const { era, downtimeLimitMs, atRoundLimit, roundsMax } = this.#job;
    const fixed = era.passes.kind === "at-most" ? era.passes.passes + 1 : null;
    const convergence = new Convergence({ downtimeLimitMs, roundsMax: fixed ?? roundsMax, atRoundLimit });
    for (let table = first; ; table = dirtyRam(this.#map, this.#dirty)) {
      const before = this.#totals().normalPages;
      const startedMs = performance.now();
      await this.#sendPass(table, "running");
      const elapsedMs = performance.now() - startedMs;
      await this.#hold();
      const dirtyPages = this.#dirtyPages();
      const normalBytes = (this.#totals().normalPages - before) * PAGE_BYTES;
      const verdict = convergence.judge({ normalBytes, elapsedMs }, dirtyPages * PAGE_BYTES);
      this.#meter.expect(verdict.expectedDowntimeMs);
      const isEnough = fixed === null ? verdict.kind !== "another-round" : dirtyPages === 0 || this.#rounds === fixed;
      if (!isEnough) continue;
      if (fixed === null && verdict.kind === "will-not-converge")
        throw new ConfigError(
          "WILL_NOT_CONVERGE",
          `after ${this.#rounds} passes the guest would still be down for ${Math.round(verdict.expectedDowntimeMs)} ms, ${downtimeLimitMs} ms are allowed; raise the downtime limit or the bandwidth, or let the round limit switch over`,
        );
      this.#expectedDowntimeMs = verdict.expectedDowntimeMs;
      return;
    }
  }

  async #pauseAndHarvest(): Promise<void> {
    await this.#pause(this.#dirtyPages());
    this.#harvest();
  }

  async #passAfterSnapshot(): Promise<void> {
    if (this.#job.source.guest.tracker === null) return;
    this.#harvest();
    await this.#sendDirty("paused", "on-main");
  }

  async #sendDirty(guest: "running" | "paused", where: "any" | "on-main" = "any"): Promise<void> {
    const table = dirtyRam(this.#map, this.#dirty);
    if (table.count > 0) await this.#sendPass(table, guest, where);
  }

  /** Sends a table on the main channel, or in chunks on whatever additional channel is free; all of it is answered then. */
  async #sendPass(
    table: MemoryRangeTable,
    guest: "running" | "paused",
    where: "any" | "on-main" = "any",
  ): Promise<void> {
    const { onEvent, maxBandwidth, source } = this.#job;
    for (const bitmap of this.#dirty) bitmap.clear();
    const dirtyBytes = Number(table.totalBytes());
    const round = ++this.#rounds;
    this.#step = `sending round ${round}${guest === "paused" ? ", paused" : ""}`;
    onEvent({ event: "round", round, dirtyPages: dirtyBytes / PAGE_BYTES, dirtyBytes });
    this.#meter.round(dirtyBytes / PAGE_BYTES);
    const paced = guest === "running" || source.guest.tracker === null ? maxBandwidth : 0;
    const channels = this.#open.slice(MAIN + 1);
    if (channels.length === 0 || where === "on-main") {
      await this.#say("memory", sendMemory(this.#open[MAIN]!, this.#map, table, paced));
      return;
    }
    const chunks = partitionRanges(table, CHUNK_BYTES);
    const send = async (thread: RangeThread) => {
      for (const chunk of chunks) await sendMemory(thread, this.#map, chunk, paced / channels.length);
    };
    const all = Promise.all(channels.map((thread) => send(thread)));
    await this.#failure.race(all);
  }

  #harvest(): void {
    for (const [index, bitmap] of this.#dirty.entries()) this.#job.source.guest.tracker?.harvest(index, bitmap);
  }

  /** Harvests from the running guest. Not cut short by a failure elsewhere: whoever holds transfers has to let them go. */
  async #hold(): Promise<void> {
    const { guest } = this.#job.source;
    if (guest.holdTransfers === undefined) this.#harvest();
    else await guest.holdTransfers(async () => this.#harvest());
  }

  #dirtyPages(): number {
    return this.#dirty.reduce((sum, bitmap) => sum + bitmap.count(), 0);
  }

  async #pause(dirtyPages: number): Promise<void> {
    const { onEvent, source } = this.#job;
    onEvent({
      event: "switchover",
      round: this.#rounds + 1,
      dirtyPages,
      expectedDowntimeMs: Number.isFinite(this.#expectedDowntimeMs) ? Math.round(this.#expectedDowntimeMs) : 0,
    });
    this.#step = "pausing the guest";
    this.#pausedMs = performance.now();
    // Before the call, not after it: a pause that fails half-way must be undone too.
    this.#phase = "paused";
    // Seen through, whatever fails meanwhile: a pause that ended after `resume` would leave the guest standing.
    await source.guest.pause();
    this.#failure.check();
  }

  async #serveFaults(): Promise<void> {
    await this.#connect(1, "fault");
    const thread = this.#open.at(-1)!;
    this.#faults = new FaultService(thread, this.#map);
    // The answer to Complete says more than a fault channel that broke before it.
    this.#faults.ended.catch((error: unknown) => {
      const timer = setTimeout(() => this.#failure.fail(error), FAREWELL_MS);
      timer.unref();
    });
  }

  async #handOver(main: RangeThread, how: "resume" | "leave-paused"): Promise<void> {
    const command = how === "resume" ? "complete" : "completePaused";
    this.#failure.check();
    // A destination that has closed by now will never get the command: nothing is in doubt then.
    if (peekBytes(main.channel!.descriptor, new Uint8Array(1)) === 0)
      throw new ChannelError(
        "CHANNEL_CUT",
        `main channel: the destination closed before ${command}; its own log says why`,
      );
    this.#job.source.guest.handOver?.();
    this.#phase = "handed-over";
    const exchange = async () => {
      try {
        await main.send(encodeRequest(command));
      } catch (error) {
        this.#phase = "paused"; // none of it has left
        throw error;
      }
      await awaitAnswer(main, command);
    };
    await this.#say(command, exchange());
    this.#phase = "acknowledged";
    if (this.#pausedMs !== null) this.#downtimeMs = Math.round(performance.now() - this.#pausedMs);
  }

  /** Awaits an exchange on the main channel, or what fails meanwhile. */
  async #say(command: string, exchange: Promise<unknown>): Promise<void> {
    if (command !== "memory") this.#step = `waiting for the answer to ${command}`;
    this.#exchange = exchange;
    await this.#failure.race(exchange);
  }

  /** Answers a failure by the phase it met. @returns the error to tell. */
  async #settle(seen: unknown): Promise<unknown> {
    const refused = isRefusal(seen);
    const broken = seen instanceof MigrationError && (seen.code === "CHANNEL_BROKEN" || seen.code === "CHANNEL_CUT");
    const reason = seen instanceof Error ? seen.message : String(seen);
    if (this.#phase === "acknowledged")
      return new ChannelError(
        "PAGES_LOST",
        `the guest runs at the destination, which has not got all of its pages (${reason}); it stays paused here and must not be resumed while it runs there`,
        { cause: seen },
      );
    if (this.#phase === "handed-over" && !refused)
      return new ChannelError(
        "ACKNOWLEDGEMENT_LOST",
        `everything was sent, and then the destination's word was lost (${reason}); the guest stays paused here, for it may run there: look at the destination, then resume exactly one of the two`,
        { cause: seen },
      );
    const error = broken ? placeError(seen, this.#step) : seen;
    const resumed = this.#pausedMs === null ? null : await this.#resume(error);
    await this.#takeLeave(seen, refused);
    return resumed ?? error;
  }

  /** @returns null, or what to tell where the guest does not go on. */
  async #resume(error: unknown): Promise<unknown> {
    try {
      await this.#job.source.guest.resume();
      return null;
    } catch (cause) {
      return new SystemError(
        "RESUME_FAILED",
        `${(error as Error).message}; and the guest could not be resumed here: ${(cause as Error).message}`,
        { cause },
      );
    }
  }

  /** Says Abandon where its era expects it, or where we give up ourselves; never in the middle of a range. */
  async #takeLeave(seen: unknown, refused: boolean): Promise<void> {
    const main = this.#open[MAIN];
    const cancelled = seen instanceof MigrationError && !(seen instanceof ChannelError && seen.code !== "CANCELLED");
    const abandons = refused ? this.#job.era.abandonAfterRefusal !== "never" : cancelled;
    if (main === undefined || !abandons) return;
    // The answer is not looked at: what made us leave is the cause to tell, whether it comes or not.
    const farewell = async () => {
      await this.#exchange.catch((error: unknown) => {
        if (!isRefusal(error)) throw error; // nobody knows any more where a message begins
      });
      await main.send(encodeRequest("abandon"));
      await receiveExact(main, RESPONSE_BYTES, "the answer to abandon");
    };
    await within(FAREWELL_MS, farewell());
  }

  async #close(): Promise<void> {
    for (const thread of this.#open) thread.shutDown();
    await Promise.all(this.#open.splice(0).map((thread) => this.#threads.giveBack(thread)));
    if (this.#job.threads === undefined) await this.#threads.end();
    await this.#job.source.guest.tracker?.stop();
  }

  #totals(): MigrationTotals {
    const { wireBytes, normalPages } = sumCounters(this.#counters);
    return { ramBytes: this.#map.ramBytes, wireBytes, normalPages, zeroPages: 0, rounds: this.#rounds };
  }

  #result(): MigrationResult {
    const cpu = process.cpuUsage(this.#cpu);
    return {
      event: "completed",
      ...this.#totals(),
      totalMs: Math.round(performance.now() - this.#startedMs),
      downtimeMs: this.#downtimeMs,
      cpuSeconds: (cpu.user + cpu.system) / 1e6,
      acknowledged: true,
    };
  }
}

function isRefusal(error: unknown): boolean {
  return error instanceof MigrationError && error.code === "PEER_REFUSED";
}

function peerName(address: Address): string {
  return `Cloud Hypervisor at ${formatAddress(address)}`;
}
