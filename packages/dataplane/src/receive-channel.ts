/**
 * Receive channel: one worker thread that turns packets back into pages.
 *
 * Per packet it crosses into C twice: once for the header, which the intake
 * checks, and once for the payload, which C receives, decodes and places. SYNC is
 * honoured after the packet's own pages, for sources before 9.0 send pages with it.
 *
 * Into a compressed snapshot packets go as frames, which is why those are
 * compressed here, by every channel at once.
 *
 * Blocks in recv(2) and at the barrier; the coordinator ends it by shutting the
 * socket down and giving the barrier up. Owns its intake and frame writer.
 */
import { receivePages } from "@multifd/native";
import { describeError, placeError } from "@multifd/protocol";
import { FrameWriter } from "./frame-writer.js";
import type { ChannelResult, DeviceStateArrived, ReceiveTask } from "./messages.js";
import { PacketIntake } from "./packet-intake.js";
import { PagePlacement } from "./page-placement.js";
import { COUNTER } from "./shared-words.js";
import { SyncBarrier } from "./sync-barrier.js";

/** Largest payload of a device-state packet that is taken: twice what QEMU sends, and what a relay passes on. */
const DEVICE_STATE_RECEIVE_MAX = 2 * 1024 * 1024;

/** Runs a channel until its stream ends or it is told to give up. Never throws for what can happen on a wire. */
export function runReceiveChannel(task: ReceiveTask): ChannelResult {
  const receiver = new PacketReceiver(task);
  try {
    while (receiver.receivePacket()) receiver.packets++;
    receiver.barrier.markEnded(task.channel);
    return { ok: true };
  } catch (error) {
    const description = describeError(placeError(error, `channel ${task.channel}, packet ${receiver.packets}`));
    if (description === null) throw error;
    return { ok: false, error: description };
  } finally {
    receiver.free();
    receiver.barrier.ring();
  }
}

class PacketReceiver {
  readonly barrier: SyncBarrier;
  packets = 0;
  readonly #task: ReceiveTask;
  readonly #intake: PacketIntake;
  readonly #placement: PagePlacement;
  readonly #counters: Float64Array;
  readonly #countersAt: number;
  /** Null where no block goes into frames. */
  readonly #frames: FrameWriter | null;
  readonly #pageMaps: readonly (Int32Array | null)[];
  /** Page numbers of a packet, while its own list is that of the window. */
  readonly #numbers: Uint32Array;

  constructor(task: ReceiveTask) {
    const { blocks } = task;
    this.#task = task;
    this.barrier = new SyncBarrier(task.channels, task.barrier);
    this.#intake = new PacketIntake({ ...task, deviceStateBytesMax: DEVICE_STATE_RECEIVE_MAX });
    this.#placement = new PagePlacement(blocks, this.#intake.packet, () => this.#receivePayload());
    this.#counters = new Float64Array(task.counters);
    this.#countersAt = task.channel * COUNTER.words;
    this.#frames = task.frames === undefined ? null : new FrameWriter(task.frames);
    this.#pageMaps = blocks.map(({ pageMap }) => (pageMap === undefined ? null : new Int32Array(pageMap)));
    this.#numbers = new Uint32Array(this.#intake.packet.pages.length);
  }

  free(): void {
    this.#intake.free();
    this.#frames?.free();
  }

  /** Receives and applies one packet. @returns false at the end of the stream, or when told to give up. */
  receivePacket(): boolean {
    const intake = this.#intake;
    const received = intake.next();
    if (received === 0) return false;
    this.#counters[this.#countersAt + COUNTER.wireBytes]! += received;
    if (intake.deviceState !== null) {
      return this.#receiveDeviceState();
    }
    if (intake.normalPages + intake.zeroPages > 0) this.#applyPages();
    return intake.isSync ? this.barrier.arrive(this.#task.channel) : true;
  }

  #applyPages(): void {
    const { block, normalPages, zeroPages } = this.#intake;
    this.#counters[this.#countersAt + COUNTER.zeroPages]! += zeroPages;
    if (this.#task.blocks[block]!.pageMap === undefined) this.#placement.place(block, normalPages, zeroPages);
    else this.#appendPages();
  }

  /** Receives the listed pages into the frame window, and appends them to the log. */
  #appendPages(): void {
    const { packet, block, normalPages, zeroPages } = this.#intake;
    const writer = this.#frames!;
    const pageMap = this.#pageMaps[block]!;
    const numbers = this.#numbers;
    for (let i = 0; i < normalPages + zeroPages; i++) numbers[i] = packet.pages[i]!;
    if (normalPages > 0) {
      writer.window.placeInto(packet, normalPages);
      this.#receivePayload();
      writer.writePages(block, numbers, normalPages, this.#task.pageBytes, pageMap);
    }
    for (let i = normalPages; i < normalPages + zeroPages; i++) Atomics.store(pageMap, numbers[i]!, 0);
  }

  #receivePayload(): void {
    const { packet, codec, payloadBytes, normalPages } = this.#intake;
    packet.codec = codec;
    packet.normalPages = normalPages;
    packet.zeroPages = 0;
    packet.payloadBytes = payloadBytes;
    this.#counters[this.#countersAt + COUNTER.wireBytes]! += receivePages(packet);
    this.#counters[this.#countersAt + COUNTER.normalPages]! += normalPages;
  }

  /** Hands one packet over, as soon as the one before it has been admitted. @returns false when told to give up. */
  #receiveDeviceState(): boolean {
    const { channel } = this.#task;
    if (!this.barrier.awaitAdmission(channel)) return false;
    const { device, instanceId, payloadBytes } = this.#intake.deviceState!;
    const bytes = new Uint8Array(payloadBytes);
    this.#intake.receiveDeviceState(bytes);
    this.#counters[this.#countersAt + COUNTER.wireBytes]! += payloadBytes;
    const arrived: DeviceStateArrived = { channel, idstr: device, instanceId, bytes };
    this.#task.devices.postMessage(arrived, [bytes.buffer]);
    this.barrier.countDeviceState(channel);
    return true;
  }
}
