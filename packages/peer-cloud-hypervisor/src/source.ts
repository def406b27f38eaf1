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
  Attempt,
  acknowledgementLost,
  Convergence,
  DirtyPages,
  type FirstFailure,
  type MigrationResult,
  type MigrationTotals,
  messageOf,
  ProgressMeter,
  type RamFeed,
  type RangeThread,
  RangeThreads,
  resumeAfter,
  type SourceGuest,
  tellOutcome,
  willNotConverge,
} from "@multifd/engine";
import { peekBytes } from "@multifd/native";
import {
  CHUNK_BYTES,
  ChannelError,
  CONNECTIONS_MAX,
  encodeConnectionRole,
  encodeRequest,
  type MemoryRangeTable,
  MigrationError,
  partitionRanges,
  placeError,
  RESPONSE_BYTES,
  readMemoryMappings,
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
  readonly #attempt: Attempt;
  readonly #failure: FirstFailure;
  readonly #counters = createCounters(CONNECTIONS_MAX + 2);
  readonly #threads: RangeThreads;
  readonly #meter: ProgressMeter;
  readonly #dirty: DirtyPages;
  /** Main channel first. */
  readonly #open: RangeThread[] = [];
  #faults: FaultService | null = null;
  #phase: Phase = "running";
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
    this.#attempt = new Attempt({
      step: "connecting",
      signal: job.signal,
      tooLate: () => this.#phase === "handed-over" || this.#phase === "acknowledged",
      sign: () => this.#totals().wireBytes + (job.source.guest.feed?.signs ?? 0),
    });
    this.#failure = this.#attempt.failure;
    this.#dirty = new DirtyPages(job.source.guest, this.#ram, this.#failure);
    this.#threads = job.threads ?? new RangeThreads(job.channels === 1 ? 1 : job.channels + 1);
    this.#meter = new ProgressMeter(job.onEvent, () => this.#totals(), PAGE_BYTES);
  }

  run(): Promise<MigrationResult> {
    return this.#attempt.run({
      act: async () => {
        this.#attempt.watchForStall(this.#job.stallTimeoutMs);
        await this.#migrate();
        return this.#attempt.completed(this.#totals(), { downtimeMs: this.#downtimeMs, acknowledged: true });
      },
      settle: (error) => this.#settle(error),
      close: () => this.#close(),
    });
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
    this.#attempt.step = "taking the device snapshot";
    const state = await this.#failure.race(source.snapshot());
    if (memory === "stream") await this.#passAfterSnapshot();
    await this.#say("state", ask(main, "state", state));
    this.#attempt.step = "waiting to hand the guest over";
    const how = typeof handOver === "string" ? handOver : await this.#failure.race(handOver());
    checkHandOver(this.#job.era, how);
    await this.#handOver(main, how);
    this.#attempt.step = "serving the last pages";
    await this.#faults?.ended;
  }

  /** Opens channels, each introduced as its era wants; the first of all is the main channel. */
  async #connect(count: number, role: "memory" | "fault" | null): Promise<void> {
    const { era } = this.#job;
    if (count === 0) return;
    const opened = await this.#failure.race(connectChannels(this.#job, count, this.#attempt.signal));
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
    await this.#dirty.track();
    if (guest.feed !== undefined) return this.#passOn(guest.feed);
    this.#dirty.fill();
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
      this.#dirty.harvest();
      await this.#sendDirty("running");
      feed.sent();
      this.#attempt.step = "waiting for RAM to send";
    }
    await this.#pauseAndHarvest();
    await this.#sendDirty("paused");
  }

  async #converge(first: MemoryRangeTable): Promise<void> {
    const { era, downtimeLimitMs, atRoundLimit, roundsMax } = this.#job;
    const fixed = era.passes.kind === "at-most" ? era.passes.passes + 1 : null;
    const convergence = new Convergence({ downtimeLimitMs, roundsMax: fixed ?? roundsMax, atRoundLimit });
    for (let table = first; ; table = dirtyRam(this.#map, this.#dirty.bitmaps)) {
      const before = this.#totals().normalPages;
      const startedMs = performance.now();
      await this.#sendPass(table, "running");
      const elapsedMs = performance.now() - startedMs;
      await this.#dirty.harvestRunning();
      const dirtyPages = this.#dirty.count;
      const normalBytes = (this.#totals().normalPages - before) * PAGE_BYTES;
      const verdict = convergence.judge({ normalBytes, elapsedMs }, dirtyPages * PAGE_BYTES);
      this.#meter.expect(verdict.expectedDowntimeMs);
      const isEnough = fixed === null ? verdict.kind !== "another-round" : dirtyPages === 0 || this.#rounds === fixed;
      if (!isEnough) continue;
      if (fixed === null && verdict.kind === "will-not-converge")
        throw willNotConverge(downtimeLimitMs, verdict.expectedDowntimeMs, this.#rounds);
      this.#expectedDowntimeMs = verdict.expectedDowntimeMs;
      return;
    }
  }

  async #pauseAndHarvest(): Promise<void> {
    await this.#pause(this.#dirty.count);
    this.#dirty.harvest();
  }

  async #passAfterSnapshot(): Promise<void> {
    if (this.#job.source.guest.tracker === null) return;
    this.#dirty.harvest();
    await this.#sendDirty("paused", "on-main");
  }

  async #sendDirty(guest: "running" | "paused", where: "any" | "on-main" = "any"): Promise<void> {
    const table = dirtyRam(this.#map, this.#dirty.bitmaps);
    if (table.count > 0) await this.#sendPass(table, guest, where);
  }

  /** Sends a table on the main channel, or in chunks on whatever additional channel is free; all of it is answered then. */
  async #sendPass(
    table: MemoryRangeTable,
    guest: "running" | "paused",
    where: "any" | "on-main" = "any",
  ): Promise<void> {
    const { onEvent, maxBandwidth, source } = this.#job;
    this.#dirty.clear();
    const dirtyBytes = Number(table.totalBytes());
    const round = ++this.#rounds;
    this.#attempt.step = `sending round ${round}${guest === "paused" ? ", paused" : ""}`;
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

  async #pause(dirtyPages: number): Promise<void> {
    const { onEvent, source } = this.#job;
    onEvent({
      event: "switchover",
      round: this.#rounds + 1,
      dirtyPages,
      expectedDowntimeMs: Number.isFinite(this.#expectedDowntimeMs) ? Math.round(this.#expectedDowntimeMs) : 0,
    });
    this.#attempt.step = "pausing the guest";
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
    if (command !== "memory") this.#attempt.step = `waiting for the answer to ${command}`;
    this.#exchange = exchange;
    await this.#failure.race(exchange);
  }

  /** Answers a failure by the phase it met. @returns the error to tell. */
  async #settle(seen: unknown): Promise<unknown> {
    const refused = isRefusal(seen);
    const broken = seen instanceof MigrationError && (seen.code === "CHANNEL_BROKEN" || seen.code === "CHANNEL_CUT");
    if (this.#phase === "acknowledged")
      return new ChannelError(
        "PAGES_LOST",
        `the guest runs at the destination, which has not got all of its pages (${messageOf(seen)}); it stays paused here and must not be resumed while it runs there`,
        { cause: seen },
      );
    if (this.#phase === "handed-over" && !refused) return acknowledgementLost(seen);
    const error = broken ? placeError(seen, this.#attempt.step) : seen;
    const told = this.#pausedMs === null ? error : await resumeAfter(error, this.#job.source.guest);
    await this.#takeLeave(seen, refused);
    return told;
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
    this.#meter.stop();
    for (const thread of this.#open) thread.shutDown();
    await Promise.all(this.#open.splice(0).map((thread) => this.#threads.giveBack(thread)));
    if (this.#job.threads === undefined) await this.#threads.end();
    await this.#job.source.guest.tracker?.stop();
  }

  #totals(): MigrationTotals {
    const { wireBytes, normalPages } = sumCounters(this.#counters);
    return { ramBytes: this.#map.ramBytes, wireBytes, normalPages, zeroPages: 0, rounds: this.#rounds };
  }
}

function isRefusal(error: unknown): boolean {
  return error instanceof MigrationError && error.code === "PEER_REFUSED";
}

function peerName(address: Address): string {
  return `Cloud Hypervisor at ${formatAddress(address)}`;
}
