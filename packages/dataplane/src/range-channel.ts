/**
 * Range channel: one thread that does what one raw socket needs, in the order it is told.
 *
 * For peers whose main channel carries RAM between its messages: whoever reads it
 * must take exactly what is due, never a byte more, and may have to take a
 * descriptor with it. So the coordinator keeps the protocol and orders blocking
 * operations from here: send and receive a few bytes, a run of guest RAM, a
 * descriptor. Each order is answered once, in order, and several may be under way.
 *
 * RAM moves in native calls of a few MiB, so that it can be counted and paced
 * in between. The coordinator ends a blocked call by shutting the socket
 * down. Owns its range block; borrows the socket and all descriptors.
 */
import {
  closeDescriptor,
  RANGES_MAX,
  RangeBlock,
  receiveBytes,
  receiveDescriptors,
  sendBytes,
  sendDescriptors,
} from "@multifd/native";
import { describeError } from "@multifd/protocol";
import type { RangeAnswer, RangeBlockEntry, RangeChannelTask, RangeOrder, RangeValue } from "./range-messages.js";
import { COUNTER } from "./shared-words.js";

/** Guest RAM in one native call. */
const CALL_BYTES = 4 * 2 ** 20;
/** Counted in pages of this size. */
const PAGE_BYTES = 4096;
/** A paced channel sleeps no longer than this at a time, so that it notices its end. */
const NAP_MS = 100;

/** Runs until it is told to end. Rejects with a defect only. */
export function runRangeChannel(task: RangeChannelTask): Promise<void> {
  const { port } = task;
  const channel = new RangeChannel();
  return new Promise((resolve, reject) => {
    port.on("message", (order: RangeOrder) => {
      if (order.kind === "end") {
        port.close();
        resolve();
        return;
      }
      try {
        port.postMessage({ ok: true, value: channel.obey(order) } satisfies RangeAnswer);
      } catch (error) {
        const description = describeError(error);
        if (description !== null) port.postMessage({ ok: false, error: description } satisfies RangeAnswer);
        else {
          port.close();
          reject(error);
        }
      }
    });
  });
}

class RangeChannel {
  #counters: Float64Array = new Float64Array();
  #countersAt = 0;
  #descriptor = -1;
  #blocks: readonly RangeBlockEntry[] = [];
  #work = new RangeBlock(-1);

  obey(order: Exclude<RangeOrder, { kind: "end" }>): RangeValue {
    switch (order.kind) {
      case "attach":
        this.#descriptor = order.descriptor;
        this.#counters = new Float64Array(order.counters);
        this.#countersAt = order.counter * COUNTER.words;
        this.#work = new RangeBlock(order.descriptor);
        return null;
      case "blocks":
        this.#blocks = order.blocks;
        return null;
      case "send":
        sendBytes(this.#descriptor, order.bytes);
        this.#count(order.bytes.length, 0);
        return null;
      case "receive":
        return this.#receive(order.bytes);
      case "send-descriptor":
        sendDescriptors(this.#descriptor, order.bytes, [order.descriptor]);
        this.#count(order.bytes.length, 0);
        return null;
      case "receive-descriptors": {
        const bytes = new Uint8Array(order.bytes);
        const message = receiveDescriptors(this.#descriptor, bytes, order.descriptorsMax);
        const rest = this.#receiveRest(message, bytes);
        this.#count(message.bytes + rest, 0);
        return { bytes: bytes.subarray(0, message.bytes + rest), descriptors: message.descriptors };
      }
      case "send-ranges":
        this.#move(order.pieces, false, (work) => work.send(), order.bytesPerSecond);
        return null;
      case "receive-ranges":
        this.#move(order.pieces, !order.makeMissing, (work) => work.receive(), 0);
        return null;
    }
  }

  /** Descriptors ride on the first byte; what of the message is still under way is plain bytes. @returns so many. */
  #receiveRest({ bytes, descriptors }: ReturnType<typeof receiveDescriptors>, out: Uint8Array): number {
    if (bytes === 0 || bytes === out.length) return 0;
    try {
      return receiveBytes(this.#descriptor, out.subarray(bytes));
    } catch (error) {
      for (const descriptor of descriptors) closeDescriptor(descriptor); // nobody will hear of them
      throw error;
    }
  }

  #receive(bytes: number): Uint8Array {
    const out = new Uint8Array(bytes);
    const received = receiveBytes(this.#descriptor, out);
    this.#count(received, 0);
    return received === bytes ? out : out.slice(0, received);
  }

  /** @param pieces  Triples: block, offset in it, length. */
  #move(pieces: Float64Array, withoutFresh: boolean, call: (work: RangeBlock) => number, bytesPerSecond: number): void {
    const work = this.#work;
    const blocks = withoutFresh ? this.#blocks.map((block) => ({ ...block, fresh: -1 })) : this.#blocks;
    let pending = 0;
    let moved = 0;
    const startedMs = performance.now();
    const flush = () => {
      if (work.count === 0) return;
      call(work);
      work.clear();
      this.#count(pending, pending / PAGE_BYTES);
      moved += pending;
      pending = 0;
      if (bytesPerSecond > 0) sleepUntil(startedMs + (moved / bytesPerSecond) * 1000);
    };
    for (let at = 0; at < pieces.length; at += 3) {
      const block = blocks[pieces[at]!]!;
      let offset = pieces[at + 1]!;
      let left = pieces[at + 2]!;
      do {
        const step = Math.min(left, CALL_BYTES - pending);
        work.add(block, offset, step);
        pending += step;
        offset += step;
        left -= step;
        if (pending === CALL_BYTES || work.count === RANGES_MAX) flush();
      } while (left > 0);
    }
    flush();
  }

  #count(wireBytes: number, pages: number): void {
    this.#counters[this.#countersAt + COUNTER.wireBytes]! += wireBytes;
    this.#counters[this.#countersAt + COUNTER.normalPages]! += pages;
  }
}

const clock = new Int32Array(new SharedArrayBuffer(4));

function sleepUntil(dueMs: number): void {
  for (let left = dueMs - performance.now(); left > 1; left = dueMs - performance.now())
    Atomics.wait(clock, 0, 0, Math.min(left, NAP_MS));
}
