/**
 * Relay: passes a migration on from a source to a destination, with other channels and another compression.
 *
 * Nothing of the guest is kept: a packet lives in a slot from one socket to the other,
 * and the main channel's words go on as they came. What must be kept is the order of
 * rounds. Each SYNC is met in full on the incoming side, then written in full on the
 * outgoing side, and only then may the record that pairs with it pass:
 *
 *   incoming 0   packet packet SYNC ┐                     ┌ next round
 *   incoming 1   packet SYNC ───────┤ all slots sent      │
 *   outgoing 0…M                    └ … packet SYNC ┐     │
 *   main channel                                    └ FLUSH
 *
 * The guest belongs to the source until the destination has said otherwise, so the
 * relay's own failures are answered by what may have got through:
 *
 *   passing      the destination cannot have the whole: it is cut off, then the source is told
 *   handed-over  it may have: only its own word counts, and its loss is reported, not guessed at
 *
 * Runs on the coordinator thread; owns the channels and threads of both sides, and the slots.
 */
import { RelaySlots, SLOT_BYTES, SyncBarrier } from "@multifd/dataplane";
import type { RamBlock } from "@multifd/memory";
import { closeDescriptor, createMemfd, type Mapping, mapFile, unmap } from "@multifd/native";
import { ChannelError, type Compression, MigrationError, packetPagesMax, placeError } from "@multifd/protocol";
import { Attempt } from "./attempt.js";
import { type EventSink, type MigrationResult, type MigrationTotals, tellOutcome } from "./events.js";
import type { FirstFailure } from "./first-failure.js";
import { messageOf } from "./guest-left-behind.js";
import { packetMethods } from "./packet-methods.js";
import type { RoundPhase } from "./peer.js";
import { ProgressMeter } from "./progress-meter.js";
import type { RelayPeer, RelayWord } from "./relay-peer.js";
import { RelaySide } from "./relay-side.js";
import { awaitSync } from "./sync-wait.js";

export type RelayJob = {
  readonly peer: RelayPeer;
  readonly onEvent: EventSink;
  readonly signal?: AbortSignal;
  /** As the source was told; packets that disagree are refused. */
  readonly compression: Compression;
  /** As the destination was told. */
  readonly toCompression: Compression;
  /** For that method; ignored by `none`. */
  readonly toLevel: number;
  /** Without a sign of life for this long, once the source is there, the migration fails; 0 waits for ever. */
  readonly stallTimeoutMs: number;
};

/** The counters are those of the outgoing side. */
export type RelayResult = MigrationResult & {
  /** Bytes of the source's channels and main channel together. */
  readonly wireBytesIn: number;
};

/** The bell rings for everything; this only bounds what a lost wake-up could cost. */
const WAKE_UP_MS = 200;
/** A destination that goes away for a reason says so on the main channel: how long a broken channel waits for that. */
const LAST_WORD_MS = 500;

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
  readonly #barrier: SyncBarrier;
  readonly #incoming: RelaySide;
  readonly #outgoing: RelaySide;
  readonly #onMain = { normalPages: 0, zeroPages: 0 };
  #phase: "passing" | "handed-over" = "passing";
  #isDone = false;
  #slots: RelaySlots | null = null;
  #memory: Mapping | null = null;
  #meter: ProgressMeter | null = null;
  #ramBytes = 0;
  #pageBytes = 0;
  #syncs = 0;
  #rounds = 0;
  #roundStartPages = 0;

  constructor(job: RelayJob) {
    const { channels } = job.peer;
    this.#job = job;
    this.#barrier = new SyncBarrier(channels.source);
    this.#incoming = new RelaySide(channels.source);
    this.#outgoing = new RelaySide(channels.destination);
    this.#attempt = new Attempt({
      step: "connecting to the destination",
      signal: job.signal,
      tooLate: () => this.#phase === "handed-over",
      sign: () => this.#wireBytesIn() + this.#totals().wireBytes,
      onFail: () => {
        this.#barrier.ring();
        this.#slots?.ring();
      },
    });
    this.#failure = this.#attempt.failure;
  }

  run(): Promise<RelayResult> {
    return this.#attempt.run({
      act: () => this.#pass(),
      settle: (error) => this.#settle(error),
      close: async () => {
        await this.#close();
        this.#job.peer.close();
      },
    });
  }

  async #pass(): Promise<RelayResult> {
    const { peer, stallTimeoutMs } = this.#job;
    this.#incoming.channels = await this.#failure.race(peer.accept(this.#attempt.signal));
    this.#attempt.startClock();
    this.#tellConnected(peer.names.source, this.#incoming);
    this.#attempt.watchForStall(stallTimeoutMs);
    this.#outgoing.channels = await this.#failure.race(peer.connect(this.#attempt.signal));
    this.#tellConnected(peer.names.destination, this.#outgoing);
    const verdict = peer.verdict();
    // An early word of the destination is always a refusal; it outranks the broken channels that follow it.
    verdict.catch((error: unknown) => this.#failure.fail(error));
    await this.#follow();
    if (!peer.returnPath) await this.#everythingOut();
    this.#attempt.step = "waiting for the destination's word";
    await this.#failure.race(verdict);
    this.#isDone = true;
    const end = { downtimeMs: null, acknowledged: peer.returnPath };
    return { ...this.#attempt.completed(this.#totals(), end), wireBytesIn: this.#wireBytesIn() };
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
        return this.#start(word.blocks);
      case "sync":
        return this.#sync(word.phase);
      case "pages":
        this.#onMain.normalPages += word.normalPages;
        this.#onMain.zeroPages += word.zeroPages;
        return;
      case "ram-end":
        // Some sources (QEMU 9.1, 9.2) end with a SYNC that no record pairs with; a device's state may follow it.
        return this.#barrier.releaseForGood();
      case "last":
        this.#failure.check();
        this.#phase = "handed-over";
    }
  }

  #start(blocks: readonly RamBlock[]): void {
    const { compression, toCompression, toLevel, onEvent, peer } = this.#job;
    const { pageBytes } = blocks[0]!;
    const methods = packetMethods(compression, peer.packetMethods.source, peer.names.source);
    const toMethods = packetMethods(toCompression, peer.packetMethods.destination, peer.names.destination);
    const allChannels = peer.channels.source + peer.channels.destination;
    const slots = new RelaySlots(allChannels, packetPagesMax(pageBytes));
    const memory = mapSlots(slots);
    this.#slots = slots;
    this.#memory = memory;
    this.#pageBytes = pageBytes;
    this.#ramBytes = blocks.reduce((sum, block) => sum + block.lengthBytes, 0);
    const shared = { pageBytes, blocks, slots: slots.shared, allChannels, memory };
    this.#incoming.start(
      (channel) => ({
        ...shared,
        ...channel,
        side: "incoming",
        methods,
        barrier: this.#barrier.shared,
        channels: peer.channels.source,
      }),
      (error) => this.#failure.fail(placeError(error, peer.names.source)),
    );
    this.#outgoing.start(
      (channel) => ({
        ...shared,
        ...channel,
        side: "outgoing",
        compression: toCompression,
        methods: toMethods,
        level: toLevel,
      }),
      (error) => this.#outgoingFailed(placeError(error, peer.names.destination)),
    );
    this.#attempt.step = "passing packets on";
    this.#meter = new ProgressMeter(onEvent, () => this.#totals(), pageBytes);
    this.#meter.start();
    this.#meter.round(this.#ramBytes / pageBytes);
  }

  #outgoingFailed(error: unknown): void {
    const timer = setTimeout(() => this.#failure.fail(error), LAST_WORD_MS);
    timer.unref();
    if (!(error instanceof ChannelError)) this.#failure.fail(error);
  }

  /** Sees a round through: in, out, and SYNC behind it on every outgoing channel. The next one may then come in. */
  async #sync(phase: RoundPhase): Promise<void> {
    const slots = this.#slots!;
    const sync = ++this.#syncs;
    await awaitSync(this.#incoming.channels, this.#barrier, sync, this.#failure, (missing) => {
      this.#attempt.step = `waiting for the SYNC of incoming channel ${missing.join(", ")}`;
    });
    slots.closeRound();
    this.#attempt.step = "sending a round on";
    await this.#until(slots, () => slots.arrived === sync * this.#outgoing.channels.length);
    this.#attempt.step = "passing packets on";
    if (phase !== "setup") this.#tellRound();
    this.#barrier.release(sync);
  }

  /** What a round held is known at its end, for the source alone knows its dirty bitmap. */
  #tellRound(): void {
    const { normalPages, zeroPages } = this.#totals();
    const dirtyPages = normalPages + zeroPages - this.#roundStartPages;
    this.#roundStartPages += dirtyPages;
    this.#rounds++;
    this.#job.onEvent({ event: "round", round: this.#rounds, dirtyPages, dirtyBytes: dirtyPages * this.#pageBytes });
  }

  /** Without a return path nobody answers: a source that has said everything closes, and what it left is sent on. */
  async #everythingOut(): Promise<void> {
    const { source } = this.#job.peer.channels;
    this.#attempt.step = "waiting for the source to close its channels";
    await this.#until(this.#barrier, () => {
      for (let channel = 0; channel < source; channel++) if (!this.#barrier.ended(channel)) return false;
      return true;
    });
    await this.#until(this.#slots!, () => this.#slots!.allFree);
  }

  async #until(bell: SyncBarrier | RelaySlots, isSo: () => boolean): Promise<void> {
    for (;;) {
      const seen = bell.bell;
      this.#failure.check();
      if (isSo()) return;
      await bell.waitForBell(seen, WAKE_UP_MS);
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
    this.#outgoing.shutDown();
    peer.cut();
    await peer.refuse();
    return error;
  }

  async #close(): Promise<void> {
    this.#meter?.stop();
    this.#barrier.giveUp();
    this.#slots?.giveUp();
    this.#incoming.shutDown();
    // After the destination's word they only end: a shutdown would look like a cut to one that expects TLS's own end.
    if (!this.#isDone) this.#outgoing.shutDown();
    for (const side of [this.#incoming, this.#outgoing]) await side.close();
    if (this.#memory !== null) unmap(this.#memory);
    this.#memory = null;
  }

  #wireBytesIn(): number {
    return this.#incoming.totals.wireBytes + this.#job.peer.mainBytes.source;
  }

  #totals(): MigrationTotals {
    const { wireBytes, normalPages, zeroPages } = this.#outgoing.totals;
    return {
      ramBytes: this.#ramBytes,
      wireBytes: wireBytes + this.#job.peer.mainBytes.destination,
      normalPages: normalPages + this.#onMain.normalPages,
      zeroPages: zeroPages + this.#onMain.zeroPages,
      rounds: this.#rounds,
    };
  }
}

/** The slots' memory: pages of it exist once they are filled. */
function mapSlots(slots: RelaySlots): Mapping {
  const lengthBytes = slots.count * SLOT_BYTES;
  const descriptor = createMemfd("multifd:relay", lengthBytes);
  try {
    return mapFile(descriptor, { lengthBytes, writable: true });
  } finally {
    closeDescriptor(descriptor);
  }
}
