/**
 * Destination: takes a guest's RAM and device state in, and only then says so.
 *
 * The main channel leads. It lists the RAM blocks, which opens their files and
 * starts the channel threads; it says which SYNC to wait for; it ends with the
 * device part. The threads apply packets on their own and meet the coordinator at
 * the barrier. When the last word has been read, every page applied and the guest
 * taken over, the source is told; until then anything that goes wrong gives the
 * whole back: files are abandoned, the source hears that we failed, and its guest goes on.
 *
 * Runs on the coordinator thread; owns the channels and the threads.
 */
import { MessageChannel, type MessagePort } from "node:worker_threads";
import type { Channel } from "@multifd/channel";
import {
  createCounters,
  type DeviceStateArrived,
  type ReceiveTask,
  SyncBarrier,
  sumCounters,
} from "@multifd/dataplane";
import type { RamBlock } from "@multifd/memory";
import { ChannelError, type Compression, MigrationError, ProtocolError } from "@multifd/protocol";
import { Attempt } from "./attempt.js";
import { ChannelThreads } from "./channel-threads.js";
import { DeviceLoading } from "./device-loading.js";
import { type EventSink, type MigrationResult, type MigrationTotals, tellOutcome } from "./events.js";
import type { FirstFailure } from "./first-failure.js";
import type { DestinationGuest, DeviceName } from "./guest.js";
import { packetMethods } from "./packet-methods.js";
import { type DestinationPeer, HAND_OVER_MS, type RoundPhase } from "./peer.js";
import { PlacedRam } from "./placed-ram.js";
import { ProgressMeter } from "./progress-meter.js";
import { awaitSync } from "./sync-wait.js";

export type DestinationJob = {
  readonly guest: DestinationGuest;
  readonly peer: DestinationPeer;
  readonly onEvent: EventSink;
  readonly signal?: AbortSignal;
  /** As the source was told; packets that disagree are refused. */
  readonly compression: Compression;
  /** Without a sign of life for this long, once connected, the migration fails; 0 waits for ever. */
  readonly stallTimeoutMs: number;
};

/** The bell rings for everything; this only bounds what a lost wake-up could cost. */
const WAKE_UP_MS = 200;

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
  readonly #barrier: SyncBarrier;
  readonly #counters: SharedArrayBuffer;
  readonly #devicePorts: MessagePort[] = [];
  readonly #threads: ChannelThreads;
  #channels: readonly Channel[] = [];
  #ram: PlacedRam | null = null;
  /** All of RAM is here: what the source asks next is whether the guest is loaded. */
  #complete = false;
  #meter: ProgressMeter | null = null;
  #syncs = 0;
  #rounds = 0;
  readonly #loading: DeviceLoading;
  /** The point of no return: neither cancelled nor timed out behind it. */
  #committing = false;

  constructor(job: DestinationJob) {
    this.#job = job;
    this.#barrier = new SyncBarrier(job.peer.channels);
    this.#counters = createCounters(job.peer.channels);
    this.#threads = new ChannelThreads("receive-channel", job.peer.channels);
    this.#attempt = new Attempt({
      step: "waiting for the main channel",
      signal: job.signal,
      tooLate: () => this.#committing,
      sign: () => this.#totals().wireBytes + this.#loading.readBytes,
      onFail: (error) => {
        this.#barrier.ring();
        this.#loading.stop(error);
      },
    });
    this.#failure = this.#attempt.failure;
    this.#loading = new DeviceLoading({
      load: (device, state) => job.guest.loadDeviceState(device, state),
      admit: (channel) => this.#barrier.admitDeviceState(channel),
      fail: (error) => this.#failure.fail(error),
      onChange: () => this.#barrier.ring(),
    });
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
    this.#channels = await this.#failure.race(peer.accept(this.#attempt.signal));
    this.#attempt.startClock();
    onEvent({ event: "connected", peer: peer.name, channels: this.#channels.length });
    this.#attempt.watchForStall(stallTimeoutMs);
    await this.#follow();
    this.#barrier.releaseForGood();
    await this.#statesIn();
    this.#attempt.endStallWatch();
    this.#committing = true;
    await guest.commit();
    const acknowledged = await this.#acknowledge();
    return this.#attempt.completed(this.#totals(), { downtimeMs: null, acknowledged });
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
          await this.#start(word.blocks);
          break;
        case "sync":
          await this.#sync(word.phase);
          break;
        case "confirm":
          await this.#confirm(word.answer);
          break;
        case "pages":
          this.#ram?.applyPages(word.block, word.pages, word.bytes);
          break;
        case "devices":
          await this.#job.guest.loadDevices(word.devices);
          break;
      }
    }
  }

  async #start(blocks: readonly RamBlock[]): Promise<void> {
    const { guest, peer, compression, onEvent } = this.#job;
    const methods = packetMethods(compression, peer.packetMethods, peer.name);
    const placements = await guest.placeRam(blocks);
    const pageBytes = blocks[0]!.pageBytes;
    this.#ram = new PlacedRam(placements, pageBytes);
    this.#meter = new ProgressMeter(onEvent, () => this.#totals(), pageBytes);
    const receiveBlocks = this.#ram.receiveBlocks();
    const { frames } = this.#ram;
    const tasks = this.#channels.map((channel, index): ReceiveTask => {
      const { port1, port2 } = new MessageChannel();
      port1.on("message", (packet: DeviceStateArrived) => this.#loading.arrive(packet));
      this.#devicePorts.push(port1);
      return {
        channel: index,
        descriptor: channel.descriptor,
        pageBytes,
        methods,
        blocks: receiveBlocks,
        barrier: this.#barrier.shared,
        channels: peer.channels,
        counters: this.#counters,
        ...(frames && { frames }),
        devices: port2,
      };
    });
    this.#threads.start(this.#channels, tasks, (error) => this.#failure.fail(error));
    this.#attempt.step = "receiving";
    this.#meter.start();
    this.#meter.round(blocks.reduce((sum, block) => sum + block.pageCount, 0));
  }

  /** Waits until every channel has met its next SYNC, then lets all of them go on. */
  async #sync(phase: RoundPhase): Promise<void> {
    const sync = ++this.#syncs;
    if (phase !== "setup") this.#rounds++;
    await awaitSync(this.#channels, this.#barrier, sync, this.#failure, (missing) => {
      this.#attempt.step = `waiting for the SYNC of channel ${missing.join(", ")}`;
    });
    if (phase !== "setup" && this.#job.guest.roundIn !== undefined) {
      this.#attempt.step = "seeing to the round that came";
      await this.#failure.race(this.#job.guest.roundIn());
    }
    this.#attempt.step = "receiving";
    this.#complete ||= phase === "complete";
    this.#barrier.release(sync);
  }

  /** Says that all is loaded, once it is; from then on the source's last byte is due within its time. */
  async #confirm(answer: () => Promise<void>): Promise<void> {
    const { guest } = this.#job;
    await this.#statesIn();
    if (this.#complete && guest.prepare !== undefined) {
      this.#attempt.endStallWatch(); // loading has bounds of its own
      await this.#failure.race(guest.prepare());
      this.#attempt.step = "waiting for the source to hand its guest over";
      this.#attempt.watchForStall(HAND_OVER_MS);
    }
    await answer();
  }

  /** Waits until every device state that has come is loaded. */
  async #statesIn(): Promise<void> {
    for (;;) {
      const bell = this.#barrier.bell;
      this.#failure.check();
      // Asked in this order: a channel hands its packets over before it ends.
      const allEnded = this.#channels.every((_, channel) => this.#barrier.ended(channel));
      const allArrived = this.#loading.arrived === this.#barrier.deviceStates;
      const { incomplete, loading } = this.#loading;
      if (allArrived && loading === null && incomplete === null) return;
      if (allEnded && allArrived && incomplete !== null) throw stateCut(incomplete);
      const name = incomplete ?? loading;
      if (name !== null)
        this.#attempt.step = `${incomplete ? "waiting for" : "loading"} the state of device "${name.idstr}"`;
      await this.#barrier.waitForBell(bell, WAKE_UP_MS);
    }
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
    this.#meter?.stop();
    this.#barrier.giveUp();
    this.#threads.shutDown();
    await this.#threads.close();
    for (const channel of this.#channels) channel.close(); // those that no thread was started for
    for (const port of this.#devicePorts.splice(0)) port.close();
    this.#ram?.close();
    this.#ram = null;
  }

  #totals(): MigrationTotals {
    const { wireBytes, normalPages, zeroPages } = sumCounters(this.#counters);
    const onMain = this.#ram?.pagesOnMain ?? { normalPages: 0, zeroPages: 0 };
    return {
      ramBytes: this.#ram?.lengthBytes ?? 0,
      wireBytes: wireBytes + this.#job.peer.mainBytes,
      normalPages: normalPages + onMain.normalPages,
      zeroPages: zeroPages + onMain.zeroPages,
      rounds: this.#rounds,
    };
  }
}

function stateCut({ idstr, instanceId }: DeviceName): ProtocolError {
  return new ProtocolError(
    "DEVICE_STATE_INCOMPLETE",
    `device "${idstr}" instance ${instanceId}: every channel has ended, and a part of its state has not come; the source has lost it`,
  );
}
