/**
 * Relay rounds: passes one round after the other from the incoming channels to the outgoing, and keeps their account.
 *
 * A packet lives in a slot from one socket to the other. What must be kept is the
 * order of rounds: each SYNC is met in full on the incoming side, then written in
 * full on the outgoing side, and only then may the record that pairs with it pass:
 *
 *   incoming 0   packet packet SYNC ┐                     ┌ next round
 *   incoming 1   packet SYNC ───────┤ all slots sent      │
 *   outgoing 0…M                    └ … packet SYNC ┐     │
 *   main channel                                    └ FLUSH
 *
 * Runs on the coordinator thread; owns the channels and threads of both sides, and the slots.
 */
import { RelaySlots, SLOT_BYTES, SyncBarrier } from "@multifd/dataplane";
import type { RamBlock } from "@multifd/memory";
import { closeDescriptor, createMemfd, type Mapping, mapFile, unmap } from "@multifd/native";
import { packetPagesMax, placeError } from "@multifd/protocol";
import type { Attempt } from "./attempt.js";
import { failAfterLastWord } from "./channel-failure.js";
import type { MigrationTotals } from "./events.js";
import { packetMethods } from "./packet-methods.js";
import type { RoundPhase } from "./peer.js";
import { ProgressMeter } from "./progress-meter.js";
import type { RelayJob } from "./relay-job.js";
import { RelaySide } from "./relay-side.js";
import { awaitSync } from "./sync-wait.js";

/** The bell rings for everything; this only bounds what a lost wake-up could cost. */
const WAKE_UP_MS = 200;

export class RelayRounds {
  readonly incoming: RelaySide;
  readonly outgoing: RelaySide;
  readonly #job: RelayJob;
  readonly #attempt: Attempt;
  readonly #barrier: SyncBarrier;
  readonly #onMain = { normalPages: 0, zeroPages: 0 };
  #slots: RelaySlots | null = null;
  #memory: Mapping | null = null;
  #meter: ProgressMeter | null = null;
  #ramBytes = 0;
  #pageBytes = 0;
  #syncs = 0;
  #rounds = 0;
  #roundStartPages = 0;

  /** @param attempt  Told what is being waited for. */
  constructor(job: RelayJob, attempt: Attempt) {
    const { channels } = job.peer;
    this.#job = job;
    this.#attempt = attempt;
    this.#barrier = new SyncBarrier(channels.source);
    this.incoming = new RelaySide(channels.source);
    this.outgoing = new RelaySide(channels.destination);
  }

  get wireBytesIn(): number {
    return this.incoming.totals.wireBytes + this.#job.peer.mainBytes.source;
  }

  /** Those of the outgoing side. */
  get totals(): MigrationTotals {
    const { wireBytes, normalPages, zeroPages } = this.outgoing.totals;
    return {
      ramBytes: this.#ramBytes,
      wireBytes: wireBytes + this.#job.peer.mainBytes.destination,
      normalPages: normalPages + this.#onMain.normalPages,
      zeroPages: zeroPages + this.#onMain.zeroPages,
      rounds: this.#rounds,
    };
  }

  /** Wakes whoever waits for the channels: something has failed. */
  wake(): void {
    this.#barrier.ring();
    this.#slots?.ring();
  }

  /** Makes the slots and starts a thread per channel, on both sides. */
  start(blocks: readonly RamBlock[]): void {
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
    this.incoming.start(
      (channel) => ({
        ...shared,
        ...channel,
        side: "incoming",
        methods,
        barrier: this.#barrier.shared,
        channels: peer.channels.source,
      }),
      (error) => this.#attempt.failure.fail(placeError(error, peer.names.source)),
    );
    this.outgoing.start(
      (channel) => ({
        ...shared,
        ...channel,
        side: "outgoing",
        compression: toCompression,
        methods: toMethods,
        level: toLevel,
      }),
      (error) => failAfterLastWord(this.#attempt.failure, placeError(error, peer.names.destination)),
    );
    this.#attempt.step = "passing packets on";
    this.#meter = new ProgressMeter(onEvent, () => this.totals, pageBytes);
    this.#meter.start();
    this.#meter.round(this.#ramBytes / pageBytes);
  }

  /** Pages that went by on the main channel. */
  countOnMain({ normalPages, zeroPages }: { readonly normalPages: number; readonly zeroPages: number }): void {
    this.#onMain.normalPages += normalPages;
    this.#onMain.zeroPages += zeroPages;
  }

  /** Sees a round through: in, out, and SYNC behind it on every outgoing channel. The next one may then come in. */
  async sync(phase: RoundPhase): Promise<void> {
    const slots = this.#slots!;
    const sync = ++this.#syncs;
    await awaitSync(this.incoming.channels, this.#barrier, sync, this.#attempt.failure, (missing) => {
      this.#attempt.step = `waiting for the SYNC of incoming channel ${missing.join(", ")}`;
    });
    slots.closeRound();
    this.#attempt.step = "sending a round on";
    await this.#until(slots, () => slots.arrived === sync * this.outgoing.channels.length);
    this.#attempt.step = "passing packets on";
    if (phase !== "setup") this.#tellRound();
    this.#barrier.release(sync);
  }

  /** What a round held is known at its end, for the source alone knows its dirty bitmap. */
  #tellRound(): void {
    const { normalPages, zeroPages } = this.totals;
    const dirtyPages = normalPages + zeroPages - this.#roundStartPages;
    this.#roundStartPages += dirtyPages;
    this.#rounds++;
    this.#job.onEvent({ event: "round", round: this.#rounds, dirtyPages, dirtyBytes: dirtyPages * this.#pageBytes });
  }

  /** No SYNC is waited for any more. */
  releaseForGood(): void {
    this.#barrier.releaseForGood();
  }

  /** Without a return path nobody answers: a source that has said everything closes, and what it left is sent on. */
  async everythingOut(): Promise<void> {
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
      this.#attempt.failure.check();
      if (isSo()) return;
      await bell.waitForBell(seen, WAKE_UP_MS);
    }
  }

  /** @param isDone  The destination has said its word: the outgoing channels end well. */
  async close(isDone: boolean): Promise<void> {
    this.#meter?.stop();
    this.#barrier.giveUp();
    this.#slots?.giveUp();
    this.incoming.shutDown();
    // After the destination's word they only end: a shutdown would look like a cut to one that expects TLS's own end.
    if (!isDone) this.outgoing.shutDown();
    for (const side of [this.incoming, this.outgoing]) await side.close();
    if (this.#memory !== null) unmap(this.#memory);
    this.#memory = null;
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
