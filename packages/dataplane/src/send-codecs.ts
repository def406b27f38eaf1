/**
 * Send codecs: the compressors of one sending channel, and which of them a packet gets.
 *
 * On QEMU's wire there is one method for all packets. After a hello a packet that its
 * method makes hardly smaller goes out raw, which spares the destination the
 * decoding; so what a packet bears is known only once it is prepared.
 *
 * Told `auto`, a channel chooses for itself: between raw, lz4 and zstd, or on QEMU's
 * wire between zstd frames of raw blocks, a fast level and the one asked for. What it
 * goes by is measured here: each packet's time, and now and then the CPU time that every
 * method takes for some pages that were just sent, and what it makes of them.
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

export type SendTerms = {
  readonly compression: Compression;
  /** Those that a packet may bear. */
  readonly methods: readonly PacketMethod[];
  readonly level: number;
};

/** A zstd level that costs about what lz4 does. */
const FAST_LEVEL = -5;
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
  readonly #choice: MethodChoice | null;
  /** When the packet before was through, the one in hand was begun, and prepared. */
  #freeMs = 0;
  #begunMs = 0;
  #preparedMs = 0;
  #prepareCpuMs = 0;

  /** @param packet  The channel's own: whether a packet may go out raw is set in it, for good. */
  constructor(terms: SendTerms, packet: PacketBlock) {
    const { methods } = terms;
    this.#packet = packet;
    this.#candidates = candidatesOf(terms);
    this.#flags = new Map(this.#candidates.map(({ handle, method }) => [handle, methodFlag(method)]));
    this.#onlyFlag = methods.length === 1 ? methodFlag(methods[0]!) : null;
    this.#choice = this.#candidates.length > 1 ? new MethodChoice(this.#candidates.length) : null;
    this.zstd = this.#candidates.findLast(({ method }) => method === "zstd")?.handle ?? 0;
    packet.rawFallback = methods.length > 1;
  }

  free(): void {
    for (const { handle } of this.#candidates) if (handle !== 0) freeCodec(handle);
  }

  /** Something else was done: what came before the next packet is no delay of the link's. */
  restart(): void {
    this.#freeMs = performance.now();
  }

  /** Prepares the packet block's pages, as `preparePacket` does, with the method that is best now. */
  prepare(detectZero: boolean): void {
    const packet = this.#packet;
    packet.codec = this.#candidates[this.#choice?.next ?? 0]!.handle;
    if (this.#choice === null) {
      preparePacket(packet, detectZero);
      return;
    }
    this.#begunMs = performance.now();
    const startMs = threadCpuMs();
    preparePacket(packet, detectZero);
    this.#prepareCpuMs = threadCpuMs() - startMs;
    this.#preparedMs = performance.now();
  }

  /** The method's bits in the flags of a packet that was prepared, and came out with this handle. */
  flag(handle: number): number {
    if (this.#onlyFlag !== null) return this.#onlyFlag;
    return handle === 0 ? methodFlag("none") : this.#flags.get(handle)!;
  }

  /** The packet that `prepare` prepared is sent; its pages can still be read, and its list is used up. */
  sent(): void {
    const choice = this.#choice;
    if (choice === null) return;
    const { normalPages, pageBytes, payloadBytes } = this.#packet;
    // What was waited for a packet without contents, the link's due, is left to the next one.
    if (normalPages === 0) return;
    const ms = performance.now() - this.#freeMs;
    choice.sent(normalPages * pageBytes, this.#preparedMs - this.#begunMs, this.#prepareCpuMs, ms, payloadBytes);
    if (choice.sampleDue >= 0) this.#sample(choice, choice.sampleDue);
    this.#freeMs = performance.now();
  }

  #sample(choice: MethodChoice, candidate: number): void {
    const packet = this.#packet;
    const count = Math.min(packet.normalPages, Math.max(1, SAMPLE_BYTES / packet.pageBytes));
    // Any place in the packet is as good as another; the same one each time would not be.
    const from = Math.floor(Math.random() * (packet.normalPages - count + 1));
    packet.pages.copyWithin(0, from, from + count);
    packet.normalPages = count;
    packet.zeroPages = 0;
    packet.codec = this.#candidates[candidate]!.handle;
    const startMs = threadCpuMs();
    preparePacket(packet, false);
    choice.sample(candidate, count * packet.pageBytes, threadCpuMs() - startMs, packet.payloadBytes);
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
