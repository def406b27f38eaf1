/**
 * Destination: takes a guest's RAM and device state in, and only then says so.
 *
 * The main channel leads. It lists the RAM blocks, which opens their files and
 * starts the channel threads; it says which SYNC to wait for; it ends with the
 * device part. When the last word has been read, every page applied and the guest
 * taken over, the source is told; until then anything that goes wrong gives the
 * whole back: files are abandoned, the source hears that we failed, and its guest goes on.
 *
 * Here stands what is done at which word; how RAM gets in stands in `destination-rounds.ts`.
 *
 * Runs on the coordinator thread; owns the channels.
 */
import type { Channel } from "@multifd/channel";
import { ChannelError, MigrationError } from "@multifd/protocol";
import { Attempt } from "./attempt.js";
import type { DestinationJob } from "./destination-job.js";
import { DestinationRounds } from "./destination-rounds.js";
import { type MigrationResult, tellOutcome } from "./events.js";
import type { FirstFailure } from "./first-failure.js";
import { HAND_OVER_MS } from "./peer.js";

/**
 * Takes one migration in.
 *
 * Everything it opened is closed when it settles. Exactly one of `completed` and
 * `failed` is told to `onEvent`, last.
 *
 * @throws {MigrationError} what ended it; the guest has been abandoned then, and the source told, if it still listened.
 */
export function runDestination(job: DestinationJob): Promise<MigrationResult> {
  return tellOutcome(job.onEvent, () => new DestinationMigration(job).run());
}

class DestinationMigration {
  readonly #job: DestinationJob;
  readonly #attempt: Attempt;
  readonly #failure: FirstFailure;
  readonly #rounds: DestinationRounds;
  #channels: readonly Channel[] = [];
  /** The point of no return: neither cancelled nor timed out behind it. */
  #committing = false;

  constructor(job: DestinationJob) {
    this.#job = job;
    this.#attempt = new Attempt({
      step: "waiting for the main channel",
      signal: job.signal,
      tooLate: () => this.#committing,
      sign: () => this.#rounds.signs,
      onFail: (error) => this.#rounds.wake(error),
    });
    this.#failure = this.#attempt.failure;
    this.#rounds = new DestinationRounds(job, this.#attempt);
  }

  run(): Promise<MigrationResult> {
    return this.#attempt.run({
      act: () => this.#takeIn(),
      settle: (error) => this.#giveBack(error),
      close: async () => {
        await this.#close();
        this.#job.peer.close();
      },
    });
  }

  async #takeIn(): Promise<MigrationResult> {
    const { guest, peer, stallTimeoutMs, onEvent } = this.#job;
    const onSurplus = (error: unknown) => this.#failure.fail(error);
    this.#channels = await this.#failure.race(peer.accept(this.#attempt.signal, onSurplus));
    this.#attempt.startClock();
    onEvent({ event: "connected", peer: peer.name, channels: this.#channels.length });
    this.#attempt.watchForStall(stallTimeoutMs);
    await this.#follow();
    this.#rounds.releaseForGood();
    await this.#rounds.statesIn();
    this.#attempt.endStallWatch();
    this.#committing = true;
    await guest.commit();
    const acknowledged = await this.#acknowledge();
    return this.#attempt.completed(this.#rounds.totals, { downtimeMs: null, acknowledged });
  }

  /** Does what the main channel says, word by word, until its last. */
  async #follow(): Promise<void> {
    const words = this.#job.peer.words();
    for (;;) {
      const next = await this.#failure.race(words.next());
      if (next.done) return;
      const word = next.value;
      switch (word.kind) {
        case "ram-blocks":
          await this.#rounds.start(this.#channels, word.blocks);
          break;
        case "sync":
          await this.#rounds.sync(word.phase);
          break;
        case "confirm":
          await this.#confirm(word.answer);
          break;
        case "pages":
          this.#rounds.applyPages(word.block, word.pages, word.bytes);
          break;
        case "devices":
          await this.#job.guest.loadDevices(word.devices);
          break;
      }
    }
  }

  /** Says that all is loaded, once it is; from then on the source's last byte is due within its time. */
  async #confirm(answer: () => Promise<void>): Promise<void> {
    const { guest } = this.#job;
    await this.#rounds.statesIn();
    if (this.#rounds.complete && guest.prepare !== undefined) {
      this.#attempt.endStallWatch(); // loading has bounds of its own
      await this.#failure.race(guest.prepare());
      this.#attempt.step = "waiting for the source to hand its guest over";
      this.#attempt.watchForStall(HAND_OVER_MS);
    }
    await answer();
  }

  /** The guest is ours from `commit` on. If the source cannot be told any more, it reports that; nothing is undone here. */
  async #acknowledge(): Promise<boolean> {
    try {
      return await this.#job.peer.acknowledge();
    } catch (error) {
      if (error instanceof ChannelError) return false;
      throw error;
    }
  }

  /** Undoes everything and tells the source, which then resumes its guest. */
  async #giveBack(error: unknown): Promise<unknown> {
    const { guest, peer } = this.#job;
    // A guest that `commit` may have started must be stopped before the source can hear of it; otherwise the source
    // hears first, for its guest may be waiting.
    if (this.#committing) await guest.abandon();
    // Where nobody knows whether the guest runs, its source must not hear that it does not.
    if (!(error instanceof MigrationError && error.code === "ACKNOWLEDGEMENT_LOST")) await peer.refuse();
    await this.#close();
    if (!this.#committing) await guest.abandon();
    return error;
  }

  async #close(): Promise<void> {
    await this.#rounds.close();
    for (const channel of this.#channels) channel.close(); // those that no thread was started for
  }
}
