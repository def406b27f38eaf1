/**
 * Relay receive: one worker thread that takes a source's packets into the relay's slots.
 *
 * Per packet it checks the header, claims a slot, and lets C receive and decode the
 * pages into it, one behind the other; their places in guest RAM stay numbers. A
 * device's state goes through whole, header and all.
 *
 * Blocks in recv(2), for a free slot, and at the barrier; the coordinator ends it by
 * shutting the socket down and giving slots and barrier up. Owns its intake.
 */
import { type PlaceTarget, receivePages, writeMemory } from "@multifd/native";
import {
  DEVICE_STATE_PACKET_BYTES,
  describeError,
  PACKET_GUEST_BYTES,
  packetPagesMax,
  placeError,
} from "@multifd/protocol";
import type { ChannelResult, RelayReceiveTask } from "./messages.js";
import { PacketIntake } from "./packet-intake.js";
import {
  DEVICE_STATE_RELAY_MAX,
  pagesInOrder,
  RelaySlots,
  SLOT_BYTES,
  SLOT_CLAIM,
  slotAddresses,
} from "./relay-slots.js";
import { COUNTER } from "./shared-words.js";
import { SyncBarrier } from "./sync-barrier.js";

/** Runs a channel until its stream ends or it is told to give up. Never throws for what can happen on a wire. */
export function runRelayReceive(task: RelayReceiveTask): ChannelResult {
  const receiver = new RelayReceiver(task);
  try {
    while (receiver.receivePacket()) receiver.packets++;
    receiver.barrier.markEnded(task.channel);
    return { ok: true };
  } catch (error) {
    const place = `channel ${task.channel}, packet ${receiver.packets}`;
    const description = describeError(placeError(error, place));
    if (description === null) throw error;
    return { ok: false, error: description };
  } finally {
    receiver.free();
    receiver.barrier.ring();
  }
}

class RelayReceiver {
  readonly barrier: SyncBarrier;
  packets = 0;
  readonly #task: RelayReceiveTask;
  readonly #intake: PacketIntake;
  readonly #slots: RelaySlots;
  readonly #places: readonly PlaceTarget[];
  readonly #inOrder: Uint32Array;
  readonly #contents = { deviceStateBytes: 0, block: 0, normalPages: 0, zeroPages: 0 };
  readonly #counters: Float64Array;
  readonly #countersAt: number;

  constructor(task: RelayReceiveTask) {
    const pagesMax = packetPagesMax(task.pageBytes);
    this.#task = task;
    this.barrier = new SyncBarrier(task.channels, task.barrier);
    this.#intake = new PacketIntake({ ...task, deviceStateBytesMax: DEVICE_STATE_RELAY_MAX });
    this.#slots = new RelaySlots(task.allChannels, pagesMax, task.slots);
    this.#places = slotAddresses(task.memory).map((address) => {
      return { lengthBytes: BigInt(PACKET_GUEST_BYTES), file: -1, fileOffsetBytes: 0n, address, fresh: -1 };
    });
    this.#inOrder = pagesInOrder(pagesMax);
    this.#counters = new Float64Array(task.counters);
    this.#countersAt = task.channel * COUNTER.words;
  }

  free(): void {
    this.#intake.free();
  }

  /** Takes one packet in. @returns false at the end of the stream, or when told to give up. */
  receivePacket(): boolean {
    const intake = this.#intake;
    const received = intake.next();
    if (received === 0) return false;
    this.#count(received, 0, 0);
    if (intake.deviceState !== null) return this.#takeDeviceState(intake.deviceState.payloadBytes);
    if (intake.normalPages + intake.zeroPages > 0 && !this.#takePages()) return false;
    return intake.isSync ? this.barrier.arrive(this.#task.channel) : true;
  }

  /** @returns false when told to give up. */
  #takePages(): boolean {
    const { packet, codec, block, normalPages, zeroPages, payloadBytes } = this.#intake;
    const slots = this.#slots;
    const slot = slots.claimFree();
    if (slot === SLOT_CLAIM.giveUp) return false;
    slots.pages.set(packet.pages.subarray(0, normalPages + zeroPages), slots.pagesAt(slot));
    if (normalPages > 0) {
      packet.pages.set(this.#inOrder.subarray(0, normalPages));
      packet.placeInto(this.#places[slot]!, false);
      packet.codec = codec;
      packet.normalPages = normalPages;
      packet.zeroPages = 0;
      packet.payloadBytes = payloadBytes;
      this.#count(receivePages(packet), normalPages, 0);
    }
    this.#count(0, 0, zeroPages);
    this.#fill(slot, 0, block, normalPages, zeroPages);
    return true;
  }

  /** @returns false when told to give up. */
  #takeDeviceState(stateBytes: number): boolean {
    const slot = this.#slots.claimFree();
    if (slot === SLOT_CLAIM.giveUp) return false;
    const bytes = new Uint8Array(DEVICE_STATE_PACKET_BYTES + stateBytes);
    bytes.set(this.#intake.packet.header.subarray(0, DEVICE_STATE_PACKET_BYTES));
    this.#intake.receiveDeviceState(bytes.subarray(DEVICE_STATE_PACKET_BYTES));
    this.#count(stateBytes, 0, 0);
    writeMemory(this.#task.memory, slot * SLOT_BYTES, bytes);
    this.#fill(slot, bytes.length, 0, 0, 0);
    return true;
  }

  #fill(slot: number, deviceStateBytes: number, block: number, normalPages: number, zeroPages: number): void {
    const contents = this.#contents;
    contents.deviceStateBytes = deviceStateBytes;
    contents.block = block;
    contents.normalPages = normalPages;
    contents.zeroPages = zeroPages;
    this.#slots.fill(slot, contents);
  }

  #count(wireBytes: number, normalPages: number, zeroPages: number): void {
    const at = this.#countersAt;
    this.#counters[at + COUNTER.wireBytes]! += wireBytes;
    this.#counters[at + COUNTER.normalPages]! += normalPages;
    this.#counters[at + COUNTER.zeroPages]! += zeroPages;
  }
}
