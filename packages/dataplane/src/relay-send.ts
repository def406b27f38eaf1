/**
 * Relay send: one worker thread that sends a relay's slots on to the destination.
 *
 * Zero pages stay zero pages, and no page is looked at for being one: whether the
 * destination takes them in packets at all is between it and the source.
 *
 * Blocks in send(2) and for a full slot; the coordinator ends it by shutting the
 * socket down and giving the slots up. Owns its packet block and codecs.
 */
import { PacketBlock, readMemory, sendBytes, sendPacket } from "@multifd/native";
import { describeError, PACKET_GUEST_BYTES, packetPagesMax, placeError, ramPacketBytes } from "@multifd/protocol";
import type { ChannelResult, RelaySendTask } from "./messages.js";
import { putRamHeader, putSyncHeader } from "./packet-header.js";
import { pagesInOrder, RelaySlots, SLOT_BYTES, SLOT_CLAIM, slotAddresses } from "./relay-slots.js";
import { SendCodecs } from "./send-codecs.js";
import { COUNTER } from "./shared-words.js";

const SLOT_GUEST_BYTES = BigInt(PACKET_GUEST_BYTES);

/** Runs a channel until it is told to give up. Never throws for what can happen on a wire. */
export function runRelaySend(task: RelaySendTask): ChannelResult {
  const sender = new RelaySender(task);
  try {
    while (sender.sendNext());
    return { ok: true };
  } catch (error) {
    const description = describeError(placeError(error, `channel ${task.channel}`));
    if (description === null) throw error;
    return { ok: false, error: description };
  } finally {
    sender.free();
  }
}

class RelaySender {
  readonly #task: RelaySendTask;
  readonly #packet = new PacketBlock();
  readonly #codecs: SendCodecs;
  readonly #pagesMax: number;
  readonly #inOrder: Uint32Array;
  readonly #slots: RelaySlots;
  readonly #addresses: readonly bigint[];
  readonly #contents = { deviceStateBytes: 0, block: 0, normalPages: 0, zeroPages: 0 };
  readonly #counters: Float64Array;
  readonly #countersAt: number;
  #syncs = 0;

  constructor(task: RelaySendTask) {
    const { pageBytes } = task;
    this.#task = task;
    this.#pagesMax = packetPagesMax(pageBytes);
    this.#slots = new RelaySlots(task.allChannels, this.#pagesMax, task.slots);
    this.#addresses = slotAddresses(task.memory);
    this.#counters = new Float64Array(task.counters);
    this.#countersAt = task.channel * COUNTER.words;
    this.#codecs = new SendCodecs(task, this.#packet);
    this.#packet.socket = task.descriptor;
    this.#packet.pageBytes = pageBytes;
    this.#packet.headerBytes = ramPacketBytes(pageBytes);
    this.#inOrder = pagesInOrder(this.#pagesMax);
    this.#packet.pages.set(this.#inOrder); // as they lie in a slot
  }

  free(): void {
    this.#codecs.free();
  }

  /** Sends one slot, or the SYNC that closes the round. @returns false when told to give up. */
  sendNext(): boolean {
    const slots = this.#slots;
    const slot = slots.claimFull(this.#syncs, this.#contents);
    if (slot === SLOT_CLAIM.giveUp) return false;
    if (slot === SLOT_CLAIM.roundOver) {
      putSyncHeader(this.#packet, slots.nextPacketNumber());
      this.#count(sendPacket(this.#packet), 0, 0);
      this.#syncs++;
      slots.arrive();
      this.#codecs.restart();
      return true;
    }
    if (this.#contents.deviceStateBytes > 0) this.#sendDeviceState(slot);
    else this.#sendPages(slot);
    slots.free(slot);
    return true;
  }

  #sendPages(slot: number): void {
    const packet = this.#packet;
    const { block, normalPages, zeroPages } = this.#contents;
    packet.readFromMapping(this.#addresses[slot]!, SLOT_GUEST_BYTES);
    packet.normalPages = normalPages;
    packet.zeroPages = 0;
    this.#codecs.prepare(false);
    const header = {
      flags: this.#codecs.flag(packet.codec),
      pagesMax: this.#pagesMax,
      normalPages,
      payloadBytes: packet.payloadBytes,
      packetNumber: this.#slots.nextPacketNumber(),
      zeroPages,
      ramBlock: this.#task.blocks[block]!.name,
    };
    putRamHeader(packet, header, this.#slots.pages, this.#slots.pagesAt(slot));
    this.#count(sendPacket(packet), normalPages, zeroPages);
    this.#codecs.sent();
    packet.pages.set(this.#inOrder.subarray(0, normalPages)); // of which it may have made use
  }

  #sendDeviceState(slot: number): void {
    const bytes = new Uint8Array(this.#contents.deviceStateBytes);
    readMemory(this.#task.memory, slot * SLOT_BYTES, bytes);
    sendBytes(this.#task.descriptor, bytes);
    this.#count(bytes.length, 0, 0);
  }

  #count(wireBytes: number, normalPages: number, zeroPages: number): void {
    const at = this.#countersAt;
    this.#counters[at + COUNTER.wireBytes]! += wireBytes;
    this.#counters[at + COUNTER.normalPages]! += normalPages;
    this.#counters[at + COUNTER.zeroPages]! += zeroPages;
  }
}
