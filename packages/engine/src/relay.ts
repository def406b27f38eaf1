/**
 * Relay: passes a migration on from a source to a destination, with other channels and another compression.
 *
 * Nothing of the guest is kept: packets go from channel to channel, and the main
 * channel's words go on as they came, each once the round before it is out.
 *
 * The guest belongs to the source until the destination has said otherwise, so the
 * relay's own failures are answered by what may have got through:
 *
 *   passing      the destination cannot have the whole: it is cut off, then the source is told
 *   handed-over  it may have: only its own word counts, and its loss is reported, not guessed at
 *
 * How rounds get across stands in `relay-rounds.ts`. Runs on the coordinator thread.
 */
import { ChannelError, MigrationError } from "@multifd/protocol";
import { Attempt } from "./attempt.js";
import { tellOutcome } from "./events.js";
import type { FirstFailure } from "./first-failure.js";
import { messageOf } from "./guest-left-behind.js";
import type { RelayJob, RelayResult } from "./relay-job.js";
import type { RelayWord } from "./relay-peer.js";
import { RelayRounds } from "./relay-rounds.js";
import type { RelaySide } from "./relay-side.js";

/**
 * Passes one migration on.
 *
 * Everything it opened is closed when it settles. Exactly one of `completed` and
 * `failed` is told to `onEvent`, last.
 *
 * @throws {MigrationError} what ended it. With code ACKNOWLEDGEMENT_LOST the destination may be running the guest;
 *   after any other failure it does not, and the source has been told, if it still listened.
 */
export function runRelay(job: RelayJob): Promise<RelayResult> {
  return tellOutcome(job.onEvent, () => new Relay(job).run());
}

class Relay {
  readonly #job: RelayJob;
  readonly #attempt: Attempt;
  readonly #failure: FirstFailure;
  readonly #rounds: RelayRounds;
  #phase: "passing" | "handed-over" = "passing";
  #isDone = false;

  constructor(job: RelayJob) {
    this.#job = job;
    this.#attempt = new Attempt({
      step: "connecting to the destination",
      signal: job.signal,
      tooLate: () => this.#phase === "handed-over",
      sign: () => this.#rounds.wireBytesIn + this.#rounds.totals.wireBytes,
      onFail: () => this.#rounds.wake(),
    });
    this.#failure = this.#attempt.failure;
    this.#rounds = new RelayRounds(job, this.#attempt);
  }

  run(): Promise<RelayResult> {
    return this.#attempt.run({
      act: () => this.#pass(),
      settle: (error) => this.#settle(error),
      close: async () => {
        await this.#rounds.close(this.#isDone);
        this.#job.peer.close();
      },
    });
  }

  async #pass(): Promise<RelayResult> {
    const { peer, stallTimeoutMs } = this.#job;
    const onSurplus = (error: unknown) => this.#failure.fail(error);
    this.#rounds.incoming.channels = await this.#failure.race(peer.accept(this.#attempt.signal, onSurplus));
    this.#attempt.startClock();
    this.#tellConnected(peer.names.source, this.#rounds.incoming);
    this.#attempt.watchForStall(stallTimeoutMs);
    this.#rounds.outgoing.channels = await this.#failure.race(peer.connect(this.#attempt.signal));
    this.#tellConnected(peer.names.destination, this.#rounds.outgoing);
    const verdict = peer.verdict();
    // An early word of the destination is always a refusal; it outranks the broken channels that follow it.
    verdict.catch((error: unknown) => this.#failure.fail(error));
    await this.#follow();
    if (!peer.returnPath) await this.#rounds.everythingOut();
    this.#attempt.step = "waiting for the destination's word";
    await this.#failure.race(verdict);
    this.#isDone = true;
    const end = { downtimeMs: null, acknowledged: peer.returnPath };
    return { ...this.#attempt.completed(this.#rounds.totals, end), wireBytesIn: this.#rounds.wireBytesIn };
  }

  #tellConnected(peer: string, side: RelaySide): void {
    this.#job.onEvent({ event: "connected", peer, channels: side.channels.length });
  }

  /** Does what the source's main channel asks for, word by word; each is passed on when the next is asked for. */
  async #follow(): Promise<void> {
    const words = this.#job.peer.words();
    for (;;) {
      const next = await this.#failure.race(words.next());
      if (next.done) return;
      await this.#obey(next.value);
    }
  }

  async #obey(word: RelayWord): Promise<void> {
    switch (word.kind) {
      case "ram-blocks":
        return this.#rounds.start(word.blocks);
      case "sync":
        return this.#rounds.sync(word.phase);
      case "pages":
        return this.#rounds.countOnMain(word);
      case "ram-end":
        // Some sources (QEMU 9.1, 9.2) end with a SYNC that no record pairs with; a device's state may follow it.
        return this.#rounds.releaseForGood();
      case "last":
        this.#failure.check();
        this.#phase = "handed-over";
    }
  }

  /** Answers a failure by what the destination may have. @returns the error to tell. */
  async #settle(error: unknown): Promise<unknown> {
    const { peer } = this.#job;
    const refused = error instanceof MigrationError && error.code === "PEER_REFUSED";
    if (this.#phase === "handed-over" && !refused) {
      // The source is not told that it failed, for nobody knows that. It sees its main channel end without a word.
      peer.close();
      return new ChannelError(
        "ACKNOWLEDGEMENT_LOST",
        `everything was passed on, and then the destination's word was lost (${messageOf(error)}); the guest may run there: look at the destination, and see that it goes on in one place only`,
        { cause: error },
      );
    }
    // First of all: once the source resumes its guest, nothing on its way may make a whole of what the destination has.
    this.#rounds.outgoing.shutDown();
    peer.cut();
    await peer.refuse();
    return error;
  }
}
