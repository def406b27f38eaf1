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
 * Here stands what is done in which order, and how far it can be undone; how RAM gets
 * across stands in `precopy.ts` and `source-rounds.ts`.
 *
 * Runs on the coordinator thread; owns the channels.
 */
import type { Channel } from "@multifd/channel";
import { ChannelError, ConfigError, MigrationError, placeError } from "@multifd/protocol";
import { Attempt } from "./attempt.js";
import { checkDeviceNames, DevicePump } from "./device-pump.js";
import { DirtyPages } from "./dirty-pages.js";
import { type MigrationResult, tellOutcome } from "./events.js";
import type { FirstFailure } from "./first-failure.js";
import { acknowledgementLost, resumeAfter } from "./guest-left-behind.js";
import { sendRunning } from "./precopy.js";
import type { SourceJob } from "./source-job.js";
import { SourceRounds } from "./source-rounds.js";

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
  readonly #attempt: Attempt;
  readonly #failure: FirstFailure;
  readonly #rounds: SourceRounds;
  readonly #dirty: DirtyPages;
  readonly #introducer: DevicePump;
  readonly #pump: DevicePump;
  #channels: readonly Channel[] = [];
  #phase: Phase = "running";
  #acknowledged = false;
  #saving: Promise<void> | null = null;
  #pausedMs: number | null = null;

  constructor(job: SourceJob) {
    const { guest, signal } = job;
    const introduction = guest.introduction ?? [];
    checkDeviceNames([...introduction, ...guest.devices]);
    this.#job = job;
    this.#attempt = new Attempt({
      step: "connecting",
      signal,
      tooLate: () => this.#phase === "handed-over",
      sign: () => this.#rounds.totals.wireBytes + (guest.feed?.signs ?? 0),
      onFail: () => this.#rounds.wake(),
    });
    this.#failure = this.#attempt.failure;
    this.#rounds = new SourceRounds(job, this.#attempt);
    this.#dirty = new DirtyPages(guest, guest.ram, this.#failure);
    this.#introducer = new DevicePump(introduction, this.#rounds.publisher, this.#failure);
    this.#pump = new DevicePump(guest.devices, this.#rounds.publisher, this.#failure);
  }

  run(): Promise<MigrationResult> {
    return this.#attempt.run({
      act: async () => {
        // Nobody at the other end waits for our threads to start.
        await this.#failure.race(this.#rounds.threadsReady());
        this.#attempt.startClock();
        this.#attempt.watchForStall(this.#job.stallTimeoutMs);
        await this.#migrate();
        return this.#result();
      },
      settle: (error) => this.#settle(error),
      close: () => this.#close(),
    });
  }

  async #migrate(): Promise<void> {
    const { peer, guest, devices } = this.#job;
    const blocks = guest.ram.map(({ block, sharedAt }) => (sharedAt === undefined ? block : { ...block, sharedAt }));
    await this.#connect();
    const verdict = peer.verdict();
    // An early word of the destination is always a refusal; it outranks the broken channels that follow it.
    verdict.catch((error: unknown) => this.#failure.fail(error));

    this.#attempt.step = "setting up";
    await this.#failure.race(peer.begin(blocks, devices));
    this.#rounds.start(this.#channels);
    await this.#sendIntroduction();
    this.#rounds.meter.start();
    await sendRunning({
      job: this.#job,
      attempt: this.#attempt,
      rounds: this.#rounds,
      dirty: this.#dirty,
      pump: this.#pump,
      caughtUp: () => peer.confirm?.() ?? Promise.resolve(),
      stopSoon: guest.stopSoon === undefined ? null : () => this.#stopSoon(() => guest.stopSoon!()),
      pause: () => this.#pause(),
    });
    await this.#sendLast();
    if (guest.handOver === undefined) {
      this.#attempt.step = "sending the device part";
      await this.#failure.race(peer.finish(devices));
      this.#phase = "handed-over";
    } else {
      await this.#confirm("waiting for the destination to load the guest");
      await this.#handOver(() => guest.handOver!());
    }
    this.#attempt.step = "waiting for the destination's word";
    this.#acknowledged = await this.#failure.race(verdict);
    this.#phase = "acknowledged";
  }

  /** Nothing of the guest moves before the destination has agreed, where it is to. */
  async #sendIntroduction(): Promise<void> {
    const { introduction } = this.#job.guest;
    const step = "waiting for the destination to agree"; // it may refuse at the first word
    if (introduction !== undefined) this.#attempt.step = step;
    const companions = introduction ? this.#introducer.sendRest() : null;
    companions?.catch(() => {}); // it has told its failure
    await this.#rounds.setUp(companions);
    if (introduction !== undefined) await this.#confirm(step);
  }

  async #confirm(step: string): Promise<void> {
    const { peer } = this.#job;
    this.#attempt.step = step;
    if (peer.confirm === undefined) {
      throw new ConfigError("PEER_UNFIT", `${peer.name} cannot say when it has loaded a guest; this one needs that`);
    }
    await this.#failure.race(peer.confirm());
    this.#failure.check();
  }

  /** Nothing may come between giving the guest up and the last byte: neither is raced against a failure. */
  async #handOver(giveUp: () => void): Promise<void> {
    const { peer, devices } = this.#job;
    this.#attempt.step = "handing the guest over";
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
    this.#channels = await this.#failure.race(peer.connect(this.#attempt.signal));
    onEvent({ event: "connected", peer: peer.name, channels: peer.channels });
  }

  /** What its devices can save goes out meanwhile. */
  async #stopSoon(stop: () => Promise<void>): Promise<void> {
    this.#phase = "paused"; // it may be at any moment
    const stopping = stop();
    this.#saveDevices().catch(() => {}); // it has told its failure
    await stopping;
  }

  #saveDevices(): Promise<void> {
    this.#saving ??= this.#pump.sendRest();
    return this.#saving;
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
  async #sendLast(): Promise<void> {
    const { guest } = this.#job;
    const rest = this.#saveDevices();
    rest.catch(() => {}); // it has told its failure
    await this.#rounds.send(this.#dirty, rest, "complete");
    if (guest.tracker !== null && guest.devices.some(({ savesIntoRam }) => savesIntoRam)) {
      this.#dirty.harvest();
      if (this.#dirty.count > 0) {
        await this.#rounds.close("iterate");
        await this.#rounds.send(this.#dirty, null, "complete");
      }
    }
    await this.#rounds.close("complete");
  }

  /** Answers a failure by the phase it met. @returns the error to tell. */
  async #settle(seen: unknown): Promise<unknown> {
    const refused = seen instanceof MigrationError && seen.code === "PEER_REFUSED";
    if (this.#phase === "handed-over" && !refused) return acknowledgementLost(seen);
    // First of all: what is still queued for the main channel could give the destination the whole guest, too.
    this.#job.peer.close();
    const error = this.#explain(seen);
    return this.#phase === "running" ? error : resumeAfter(error, this.#job.guest);
  }

  /** A link breaks, and a destination refuses, with few words: says at what, and where to look. */
  #explain(seen: unknown): unknown {
    if (!(seen instanceof MigrationError)) return seen;
    if (seen.code === "PEER_REFUSED") return placeError(seen, this.#attempt.step);
    if (seen.code !== "CHANNEL_BROKEN") return seen;
    const message = `${this.#attempt.step}: ${seen.message}; if the destination closed it, its own log says why`;
    return new ChannelError(seen.code, message, { cause: seen });
  }

  async #close(): Promise<void> {
    const { guest, peer } = this.#job;
    await this.#rounds.stop(this.#phase === "acknowledged" ? "end" : "giveUp");
    for (const channel of this.#channels) channel.close(); // those that no thread was started for
    await guest.tracker?.stop();
    peer.close();
  }

  #result(): MigrationResult {
    const downtimeMs = this.#pausedMs === null ? null : Math.round(performance.now() - this.#pausedMs);
    return this.#attempt.completed(this.#rounds.totals, { downtimeMs, acknowledged: this.#acknowledged });
  }
}
