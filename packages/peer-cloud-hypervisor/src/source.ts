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
 * Runs on the coordinator thread; owns the channels.
 * Source: Cloud Hypervisor 25.0 to 53.0, vmm/src/lib.rs, send_migration().
 */
import { type Address, formatAddress } from "@multifd/channel";
import {
  Attempt,
  acknowledgementLost,
  type FirstFailure,
  type MigrationResult,
  type MigrationTotals,
  messageOf,
  ProgressMeter,
  type RangeThread,
  resumeAfter,
  tellOutcome,
} from "@multifd/engine";
import { peekBytes } from "@multifd/native";
import {
  ChannelError,
  encodeRequest,
  MigrationError,
  placeError,
  RESPONSE_BYTES,
  readMemoryMappings,
} from "@multifd/protocol";
import { ask, awaitAnswer, receiveExact } from "./exchange.js";
import { FaultService } from "./fault-service.js";
import { MemoryMap, PAGE_BYTES } from "./memory-map.js";
import { Precopy } from "./precopy.js";
import { SourceChannels } from "./source-channels.js";
import { type CloudHypervisorSourceJob, checkHandOver, checkSourceTerms, matchRam } from "./source-job.js";
import { within } from "./within.js";

type Phase = "running" | "paused" | "handed-over" | "acknowledged";

/** How long a polite end may take: a command under way, and the answer to Abandon. */
const FAREWELL_MS = 1000;

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
  readonly #attempt: Attempt;
  readonly #failure: FirstFailure;
  readonly #channels: SourceChannels;
  readonly #precopy: Precopy;
  readonly #meter: ProgressMeter;
  #faults: FaultService | null = null;
  #phase: Phase = "running";
  #pausedMs: number | null = null;
  #downtimeMs: number | null = null;

  constructor(job: CloudHypervisorSourceJob) {
    this.#job = job;
    this.#map = new MemoryMap(job.source.mappings ?? readMemoryMappings(job.source.config));
    checkSourceTerms(job, this.#map);
    const ram = matchRam(job.source, this.#map);
    this.#attempt = new Attempt({
      step: "connecting",
      signal: job.signal,
      tooLate: () => this.#phase === "handed-over" || this.#phase === "acknowledged",
      sign: () => this.#channels.sent.wireBytes + (job.source.guest.feed?.signs ?? 0),
    });
    this.#failure = this.#attempt.failure;
    this.#meter = new ProgressMeter(job.onEvent, () => this.#totals(), PAGE_BYTES);
    this.#channels = new SourceChannels(job, this.#map, ram, this.#attempt);
    this.#precopy = new Precopy({
      job,
      map: this.#map,
      ram,
      channels: this.#channels,
      attempt: this.#attempt,
      meter: this.#meter,
      pause: (dirtyPages, expectedDowntimeMs) => this.#pause(dirtyPages, expectedDowntimeMs),
    });
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
    const main = await this.#channels.connectMain();
    onEvent({ event: "connected", peer: peerName(address), channels });
    await this.#channels.say("start", ask(main, "start"));
    if (memory === "descriptors") await this.#channels.passDescriptors(main);
    await this.#channels.say("config", ask(main, "config", source.config));
    this.#channels.useBlocks(main);
    this.#meter.start();
    switch (memory) {
      case "stream":
        await this.#channels.connectMore(channels > 1 ? channels : 0, "memory");
        await this.#precopy.run();
        break;
      case "descriptors":
        await this.#pause(0, 0);
        break;
      case "on-demand":
        await this.#pause(0, 0);
        await this.#serveFaults();
        break;
    }
    this.#attempt.step = "taking the device snapshot";
    const state = await this.#failure.race(source.snapshot());
    if (memory === "stream") await this.#precopy.passAfterSnapshot();
    await this.#channels.say("state", ask(main, "state", state));
    this.#attempt.step = "waiting to hand the guest over";
    const how = typeof handOver === "string" ? handOver : await this.#failure.race(handOver());
    checkHandOver(this.#job.era, how);
    await this.#handOver(main, how);
    this.#attempt.step = "serving the last pages";
    await this.#faults?.ended;
  }

  async #pause(dirtyPages: number, expectedDowntimeMs: number): Promise<void> {
    const { onEvent, source } = this.#job;
    onEvent({
      event: "switchover",
      round: this.#precopy.rounds + 1,
      dirtyPages,
      expectedDowntimeMs: Number.isFinite(expectedDowntimeMs) ? Math.round(expectedDowntimeMs) : 0,
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
    const [thread] = await this.#channels.connectMore(1, "fault");
    this.#faults = new FaultService(thread!, this.#map);
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
    await this.#channels.say(command, exchange());
    this.#phase = "acknowledged";
    if (this.#pausedMs !== null) this.#downtimeMs = Math.round(performance.now() - this.#pausedMs);
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
    const { main } = this.#channels;
    const cancelled = seen instanceof MigrationError && !(seen instanceof ChannelError && seen.code !== "CANCELLED");
    const abandons = refused ? this.#job.era.abandonAfterRefusal !== "never" : cancelled;
    if (main === null || !abandons) return;
    // The answer is not looked at: what made us leave is the cause to tell, whether it comes or not.
    const farewell = async () => {
      await this.#channels.exchange.catch((error: unknown) => {
        if (!isRefusal(error)) throw error; // nobody knows any more where a message begins
      });
      await main.send(encodeRequest("abandon"));
      await receiveExact(main, RESPONSE_BYTES, "the answer to abandon");
    };
    await within(FAREWELL_MS, farewell());
  }

  async #close(): Promise<void> {
    this.#meter.stop();
    await this.#channels.close();
    await this.#job.source.guest.tracker?.stop();
  }

  #totals(): MigrationTotals {
    const { wireBytes, normalPages } = this.#channels.sent;
    return { ramBytes: this.#map.ramBytes, wireBytes, normalPages, zeroPages: 0, rounds: this.#precopy.rounds };
  }
}

function isRefusal(error: unknown): boolean {
  return error instanceof MigrationError && error.code === "PEER_REFUSED";
}

function peerName(address: Address): string {
  return `Cloud Hypervisor at ${formatAddress(address)}`;
}
