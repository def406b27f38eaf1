/**
 * Destination rounds: takes one round after the other in from the channels, and keeps their account.
 *
 * The threads apply packets on their own and meet the coordinator at the barrier,
 * where the next round waits until the one before is in. Devices' states come down
 * the same channels and are loaded as they come. What has come so far, in pages
 * and bytes, is summed here, for results, progress and the stall watch.
 *
 *   channels ──▶ threads ──▶ RAM, device loading ──▶ barrier ──▶ released for the next round
 *
 * What the source's main channel asks for is not decided here.
 *
 * Runs on the coordinator thread; owns the barrier, the counters, the threads and the placed RAM.
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
import { ProtocolError } from "@multifd/protocol";
import type { Attempt } from "./attempt.js";
import { ChannelThreads } from "./channel-threads.js";
import type { DestinationJob } from "./destination-job.js";
import { DeviceLoading } from "./device-loading.js";
import type { MigrationTotals } from "./events.js";
import type { DeviceName } from "./guest.js";
import { packetMethods } from "./packet-methods.js";
import type { RoundPhase } from "./peer.js";
import { PlacedRam } from "./placed-ram.js";
import { ProgressMeter } from "./progress-meter.js";
import { awaitSync } from "./sync-wait.js";

/** The bell rings for everything; this only bounds what a lost wake-up could cost. */
const WAKE_UP_MS = 200;

export class DestinationRounds {
  readonly #job: DestinationJob;
  readonly #attempt: Attempt;
  readonly #barrier: SyncBarrier;
  readonly #counters: SharedArrayBuffer;
  readonly #threads: ChannelThreads;
  readonly #loading: DeviceLoading;
  readonly #devicePorts: MessagePort[] = [];
  #channels: readonly Channel[] = [];
  #ram: PlacedRam | null = null;
  #meter: ProgressMeter | null = null;
  #syncs = 0;
  #rounds = 0;
  #complete = false;

  /** @param attempt  Told what is being waited for. */
  constructor(job: DestinationJob, attempt: Attempt) {
    this.#job = job;
    this.#attempt = attempt;
    this.#barrier = new SyncBarrier(job.peer.channels);
    this.#counters = createCounters(job.peer.channels);
    this.#threads = new ChannelThreads("receive-channel", job.peer.channels);
    this.#loading = new DeviceLoading({
      load: (device, state) => job.guest.loadDeviceState(device, state),
      admit: (channel) => this.#barrier.admitDeviceState(channel),
      fail: (error) => attempt.failure.fail(error),
      onChange: () => this.#barrier.ring(),
    });
  }

  /** The last round is in: all of RAM is here. */
  get complete(): boolean {
    return this.#complete;
  }

  /** Changes with every sign of life. */
  get signs(): number {
    return this.totals.wireBytes + this.#loading.readBytes;
  }

  get totals(): MigrationTotals {
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

  /** Wakes whoever waits for the channels: something has failed. */
  wake(error: unknown): void {
    this.#barrier.ring();
    this.#loading.stop(error);
  }

  /** Opens the RAM and starts a thread per channel. @param channels  Owned from here on. */
  async start(channels: readonly Channel[], blocks: readonly RamBlock[]): Promise<void> {
    const { guest, peer, compression, onEvent } = this.#job;
    const methods = packetMethods(compression, peer.packetMethods, peer.name);
    this.#channels = channels;
    const placements = await guest.placeRam(blocks);
    const pageBytes = blocks[0]!.pageBytes;
    this.#ram = new PlacedRam(placements, pageBytes);
    this.#meter = new ProgressMeter(onEvent, () => this.totals, pageBytes);
    const receiveBlocks = this.#ram.receiveBlocks();
    const { frames } = this.#ram;
    const tasks = channels.map((channel, index): ReceiveTask => {
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
    this.#threads.start(channels, tasks, (error) => this.#attempt.failure.fail(error));
    this.#attempt.step = "receiving";
    this.#meter.start();
    this.#meter.round(blocks.reduce((sum, block) => sum + block.pageCount, 0));
  }

  /** Applies pages that came on the main channel. @param bytes  Null where they are all zeros. */
  applyPages(block: number, pages: Uint32Array, bytes: Uint8Array | null): void {
    this.#ram?.applyPages(block, pages, bytes);
  }

  /** Waits until every channel has met its next SYNC, then lets all of them go on. */
  async sync(phase: RoundPhase): Promise<void> {
    const sync = ++this.#syncs;
    if (phase !== "setup") this.#rounds++;
    await awaitSync(this.#channels, this.#barrier, sync, this.#attempt.failure, (missing) => {
      this.#attempt.step = `waiting for the SYNC of channel ${missing.join(", ")}`;
    });
    if (phase !== "setup" && this.#job.guest.roundIn !== undefined) {
      this.#attempt.step = "seeing to the round that came";
      await this.#attempt.failure.race(this.#job.guest.roundIn());
    }
    this.#attempt.step = "receiving";
    this.#complete ||= phase === "complete";
    this.#barrier.release(sync);
  }

  /** No SYNC is waited for any more. */
  releaseForGood(): void {
    this.#barrier.releaseForGood();
  }

  /** Waits until every device state that has come is loaded. */
  async statesIn(): Promise<void> {
    for (;;) {
      const bell = this.#barrier.bell;
      this.#attempt.failure.check();
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

  /** Cuts the channels off, and frees threads and RAM. Idempotent. */
  async close(): Promise<void> {
    this.#meter?.stop();
    this.#barrier.giveUp();
    this.#threads.shutDown();
    await this.#threads.close();
    for (const port of this.#devicePorts.splice(0)) port.close();
    this.#ram?.close();
    this.#ram = null;
  }
}

function stateCut({ idstr, instanceId }: DeviceName): ProtocolError {
  return new ProtocolError(
    "DEVICE_STATE_INCOMPLETE",
    `device "${idstr}" instance ${instanceId}: every channel has ended, and a part of its state has not come; the source has lost it`,
  );
}
