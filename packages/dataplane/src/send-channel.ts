/**
 * Send channel: one worker thread, one socket, one compression context.
 *
 * Claims packets of the round until none is left, writes SYNC, arrives, and
 * waits for the next round. Per packet it crosses into C twice: `prepare` splits
 * the pages into normal and zero ones and compresses, `send` writes header and
 * payload; between the two the header is filled in here, for only then are the
 * counts known. Where the destination takes no zero pages in packets they are
 * marked for the main channel instead, and a packet left empty is not sent.
 *
 * Blocks in send(2) and in Atomics.wait; the coordinator ends it by shutting the
 * socket down and stopping the ring. Owns its packet block and codecs.
 */
import { PacketBlock, sendBytes, sendPacket } from "@multifd/native";
import { describeError, encodeDeviceStatePacket, packetPagesMax, placeError, ramPacketBytes } from "@multifd/protocol";
import { DeviceStage } from "./device-stage.js";
import { FrameSender } from "./frame-sender.js";
import type { ChannelResult, SendTask } from "./messages.js";
import { putRamHeader, putSyncHeader } from "./packet-header.js";
import { CLAIM, PACKET_KIND, PacketRing } from "./packet-ring.js";
import { SendCodecs } from "./send-codecs.js";
import { COUNTER } from "./shared-words.js";
import { markZeroPages } from "./zero-marks.js";

/** Runs a channel until the ring stops it. Never throws for what can happen on a wire. */
export function runSendChannel(task: SendTask): ChannelResult {
  const sender = new PacketSender(task);
  try {
    for (let round = 1; sender.ring.awaitRound(round); round++) {
      if (!sender.sendRound()) break;
    }
    return { ok: true };
  } catch (error) {
    const description = describeError(placeError(error, `channel ${task.channel}`));
    if (description === null) throw error;
    return { ok: false, error: description };
  } finally {
    sender.free();
    sender.ring.ring();
  }
}

class PacketSender {
  readonly ring: PacketRing;
  readonly #task: SendTask;
  readonly #stage: DeviceStage;
  readonly #packet = new PacketBlock();
  readonly #counters: Float64Array;
  readonly #countersAt: number;
  readonly #pagesMax: number;
  readonly #claimed = { kind: 0, block: 0, count: 0 };
  readonly #codecs: SendCodecs;
  readonly #lengths: readonly bigint[];
  readonly #offsets: readonly bigint[];
  /** Made for the first frame. */
  #frames: FrameSender | null = null;
  /** Per block; null where zero pages go into packets. */
  readonly #zeroMarks: readonly (Int32Array | null)[];

  constructor(task: SendTask) {
    const { pageBytes } = task;
    this.#task = task;
    this.#lengths = task.blocks.map((block) => BigInt(block.lengthBytes));
    this.#offsets = task.blocks.map((block) => BigInt(block.fileOffsetBytes));
    this.#zeroMarks = task.blocks.map(({ zeroMarks }) => zeroMarks && new Int32Array(zeroMarks));
    this.#pagesMax = packetPagesMax(pageBytes);
    this.ring = new PacketRing(this.#pagesMax, task.ring);
    this.#stage = new DeviceStage(task.stage);
    this.#counters = new Float64Array(task.counters);
    this.#countersAt = task.channel * COUNTER.words;
    this.#codecs = new SendCodecs(task, this.#packet);
    this.#packet.socket = task.descriptor;
    this.#packet.pageBytes = pageBytes;
    this.#packet.headerBytes = ramPacketBytes(pageBytes);
  }

  free(): void {
    this.#codecs.free();
    this.#frames?.free();
  }

  /** Sends this channel's share of the open round, and its SYNC. @returns false when told to give up. */
  sendRound(): boolean {
    const { ring } = this;
    this.#codecs.restart();
    for (;;) {
      const number = this.#claim();
      if (number === CLAIM.giveUp) return false;
      if (number === CLAIM.roundOver) break;
      ring.take(number, this.#claimed, this.#packet.pages);
      this.#sendClaimed();
      ring.markSent();
    }
    this.#sendSync();
    ring.arrive();
    return true;
  }

  /** As the ring's; the wait is counted where a limit is in force. */
  #claim(): number {
    if (this.#counters[COUNTER.limitBytesPerMs] === 0) return this.ring.claim();
    const startMs = performance.now();
    const number = this.ring.claim();
    this.#counters[this.#countersAt + COUNTER.heldMs]! += performance.now() - startMs;
    return number;
  }

  #sendClaimed(): void {
    switch (this.#claimed.kind) {
      case PACKET_KIND.deviceState:
        this.#sendDeviceState();
        this.#codecs.restart();
        break;
      case PACKET_KIND.zeroPages:
        this.#sendZeroPages();
        break;
      case PACKET_KIND.frame:
        this.#sendFrame();
        break;
      default:
        this.#sendPages();
    }
  }

  #sendPages(): void {
    const packet = this.#packet;
    const block = this.#task.blocks[this.#claimed.block]!;
    packet.readFromFile(block.file, this.#offsets[this.#claimed.block]!, this.#lengths[this.#claimed.block]!);
    packet.normalPages = this.#claimed.count;
    packet.zeroPages = 0;
    this.#codecs.prepare(true);
    this.#sendSplit(packet.pages);
    this.#codecs.sent();
  }

  /** These are zeros whatever the file holds in their places, so nothing is looked at. */
  #sendZeroPages(): void {
    const packet = this.#packet;
    packet.codec = 0;
    packet.normalPages = 0;
    packet.zeroPages = this.#claimed.count;
    packet.payloadBytes = 0;
    this.#sendSplit(packet.pages);
  }

  #sendFrame(): void {
    this.#frames ??= new FrameSender(this.#task, this.#packet, this.#codecs);
    const [unit, live] = this.#packet.pages;
    this.#sendSplit(this.#frames.prepare(this.#claimed.block, unit!, live!));
  }

  /**
   * Sends what the packet block holds: normal pages, and zero pages behind them.
   *
   * @param numbers  The pages' numbers in the block, in that order.
   */
  #sendSplit(numbers: Uint32Array): void {
    const packet = this.#packet;
    const { normalPages } = packet;
    let { zeroPages } = packet;
    const marks = this.#zeroMarks[this.#claimed.block]!;
    if (marks !== null) {
      markZeroPages(marks, numbers, normalPages, normalPages + zeroPages);
      this.#count(0, 0, zeroPages);
      if (normalPages === 0) return; // nothing is left to announce
      zeroPages = 0;
    }
    const header = {
      flags: this.#codecs.flag(packet.codec),
      pagesMax: this.#pagesMax,
      normalPages,
      payloadBytes: packet.payloadBytes,
      packetNumber: this.ring.nextPacketNumber(),
      zeroPages,
      ramBlock: this.#task.blocks[this.#claimed.block]!.name,
    };
    putRamHeader(packet, header, numbers, 0);
    this.#count(sendPacket(packet), normalPages, zeroPages);
  }

  #sendSync(): void {
    putSyncHeader(this.#packet, this.ring.nextPacketNumber());
    this.#count(sendPacket(this.#packet), 0, 0);
  }

  #sendDeviceState(): void {
    const { payload } = this.#packet;
    const state = this.#stage.take(this.#claimed.block, payload);
    this.ring.ring(); // a place in the stage is free
    const header = encodeDeviceStatePacket({
      device: state.idstr,
      instanceId: state.instanceId,
      payloadBytes: state.stateBytes,
    });
    sendBytes(this.#task.descriptor, header);
    sendBytes(this.#task.descriptor, payload.subarray(0, state.stateBytes));
    this.#count(header.length + state.stateBytes, 0, 0);
  }

  #count(wireBytes: number, normalPages: number, zeroPages: number): void {
    const at = this.#countersAt;
    this.#counters[at + COUNTER.wireBytes]! += wireBytes;
    this.#counters[at + COUNTER.normalPages]! += normalPages;
    this.#counters[at + COUNTER.zeroPages]! += zeroPages;
  }
}
