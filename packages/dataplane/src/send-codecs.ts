/**
 * Send codecs: the compressors of one sending channel, and which of them a packet gets.
 *
 * On QEMU's wire there is one method for all packets. After a hello a packet that its
 * method makes hardly smaller goes out raw, which spares the destination the
 * decoding; so what a packet bears is known only once it is prepared.
 *
 * Told `auto`, a packet's method is chosen: between raw, lz4 and zstd, or on QEMU's
 * wire between zstd frames of raw blocks, a fast level and the one asked for. Channel 0
 * chooses for all, behind its own packets, by what the counters say that all of them
 * got done meanwhile, and now and then by the CPU time that every method takes
 * for some pages that were just sent and what it makes of them. The others read its word.
 *
 * Owns the codec handles; used by one thread.
 */
import {
  createCompressor,
  freeCodec,
  type PacketBlock,
  preparePacket,
  threadCpuMs,
  ZSTD_STORE_LEVEL,
} from "@multifd/native";
import { type Compression, methodFlag, type PacketMethod } from "@multifd/protocol";
import { MethodChoice } from "./method-choice.js";
import { type ChannelTotals, COUNTER, sumCounters, sumTimes, type TimeTotals } from "./shared-words.js";

export type SendTerms = {
  readonly compression: Compression;
  /** Those that a packet may bear. */
  readonly methods: readonly PacketMethod[];
  readonly level: number;
  readonly channel: number;
  /** From `createCounters`, of all channels that share a link. */
  readonly counters: SharedArrayBuffer;
};

/** A zstd level that costs about what lz4 does. */
const FAST_LEVEL = -5;
/** The choice hears of progress no more often: where packets take less, listening would cost more than it tells. */
const HEAR_MS = 4;
/** Guest RAM of a sample. */
const SAMPLE_BYTES = 65536;

type Candidate = { readonly method: PacketMethod; readonly level: number; readonly handle: number };

export class SendCodecs {
  /** Handle of the zstd compressor, for who has a frame already; 0 where no packet may bear it. */
  readonly zstd: number;
  readonly #packet: PacketBlock;
  /** The cheapest first. */
  readonly #candidates: readonly Candidate[];
  readonly #flags: ReadonlyMap<number, number>;
  /** Of every packet, pages or not, where there is one method only. */
  readonly #onlyFlag: number | null;
  /** Of the channel that chooses, if there is a choice. */
  readonly #choice: MethodChoice | null;
  readonly #counters: SharedArrayBuffer;
  readonly #words: Float64Array;
  readonly #ownAt: number;
  /** When the choice last heard of progress, and how far it was. */
  #heardMs = 0;
  #heard: ChannelTotals & TimeTotals;

  /** @param packet  The channel's own: whether a packet may go out raw is set in it, for good. */
  constructor(terms: SendTerms, packet: PacketBlock) {
    const { methods } = terms;
    this.#packet = packet;
    this.#candidates = candidatesOf(terms);
    this.#flags = new Map(this.#candidates.map(({ handle, method }) => [handle, methodFlag(method)]));
    this.#onlyFlag = methods.length === 1 ? methodFlag(methods[0]!) : null;
    this.#counters = terms.counters;
    this.#words = new Float64Array(terms.counters);
    this.#ownAt = terms.channel * COUNTER.words;
    this.#heard = this.#totals();
    const isChooser = this.#candidates.length > 1 && terms.channel === 0;
    this.#choice = isChooser ? new MethodChoice(this.#candidates.length, this.#words.length / COUNTER.words) : null;
    this.zstd = this.#candidates.findLast(({ method }) => method === "zstd")?.handle ?? 0;
    packet.rawFallback = methods.length > 1;
  }

  free(): void {
    for (const { handle } of this.#candidates) if (handle !== 0) freeCodec(handle);
  }

  /** Something else was done: what came before the next packet is no delay of the link's. */
  restart(): void {
    if (this.#choice === null) return;
    this.#heardMs = performance.now();
    this.#heard = this.#totals();
  }

  /** Prepares the packet block's pages, as `preparePacket` does, with the method that is best now. */
  prepare(detectZero: boolean): void {
    const packet = this.#packet;
    if (this.#candidates.length === 1) {
      packet.codec = this.#candidates[0]!.handle;
      preparePacket(packet, detectZero);
      return;
    }
    const words = this.#words;
    packet.codec = this.#candidates[words[COUNTER.method]!]!.handle;
    const startMs = performance.now();
    const startCpuMs = threadCpuMs();
    preparePacket(packet, detectZero);
    words[this.#ownAt + COUNTER.prepareCpuMs]! += threadCpuMs() - startCpuMs;
    words[this.#ownAt + COUNTER.prepareMs]! += performance.now() - startMs;
  }

  /** The method's bits in the flags of a packet that was prepared, and came out with this handle. */
  flag(handle: number): number {
    if (this.#onlyFlag !== null) return this.#onlyFlag;
    return handle === 0 ? methodFlag("none") : this.#flags.get(handle)!;
  }

  /** The packet that `prepare` prepared is sent and counted; its pages can still be read, and its list is used up. */
  sent(): void {
    const choice = this.#choice;
    // What was waited for a packet without contents, the link's due, is left to the next one.
    if (choice === null || this.#packet.normalPages === 0) return;
    const nowMs = performance.now();
    if (nowMs < this.#heardMs + HEAR_MS && !choice.sampleDue) return;
    const totals = this.#totals();
    const before = this.#heard;
    const limitBytesPerMs = this.#words[COUNTER.limitBytesPerMs]!;
    choice.progress({
      bytes: (totals.normalPages - before.normalPages) * this.#packet.pageBytes,
      prepareMs: totals.prepareMs - before.prepareMs,
      prepareCpuMs: totals.prepareCpuMs - before.prepareCpuMs,
      heldMs: totals.heldMs - before.heldMs,
      msPerWireByte: limitBytesPerMs > 0 ? 1 / limitBytesPerMs : 0,
      wireBytes: totals.wireBytes - before.wireBytes,
      ms: nowMs - this.#heardMs,
    });
    this.#words[COUNTER.method] = choice.next;
    this.#heardMs = nowMs;
    this.#heard = totals;
    if (choice.sampleDue) this.#sample(choice);
  }

  #totals(): ChannelTotals & TimeTotals {
    return { ...sumCounters(this.#counters), ...sumTimes(this.#counters) };
  }

  #sample(choice: MethodChoice): void {
    const packet = this.#packet;
    const count = Math.min(packet.normalPages, Math.max(1, SAMPLE_BYTES / packet.pageBytes));
    // Any place in the packet is as good as another; the same one each time would not be.
    const from = Math.floor(Math.random() * (packet.normalPages - count + 1));
    packet.pages.copyWithin(0, from, from + count);
    const results = this.#candidates.map(({ handle }) => {
      packet.normalPages = count;
      packet.zeroPages = 0;
      packet.codec = handle;
      const startMs = threadCpuMs();
      preparePacket(packet, false);
      return { ms: threadCpuMs() - startMs, wireBytes: packet.payloadBytes };
    });
    choice.sample(count * packet.pageBytes, results);
  }
}

function candidatesOf({ compression, methods, level }: SendTerms): readonly Candidate[] {
  const candidate = (method: PacketMethod, at: number): Candidate => ({
    method,
    level: at,
    handle: method === "none" ? 0 : createCompressor(method, at),
  });
  if (compression !== "auto") return [candidate(compression, level)];
  if (methods.length === 1 && methods[0] === "zstd")
    return [ZSTD_STORE_LEVEL, FAST_LEVEL, level].map((at) => candidate("zstd", at));
  const inOrder = (["none", "lz4", "zstd"] as const).filter((method) => methods.includes(method));
  return inOrder.map((method) => candidate(method, method === "lz4" ? 1 : level));
}
