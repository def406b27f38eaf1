/**
 * Send codecs: the compressors of one sending channel, and which of them a packet gets.
 *
 * On QEMU's wire there is one method for all packets. After a hello a packet that the
 * method makes hardly smaller goes out raw, which spares the destination the
 * decoding; so what a packet bears is known only once it is prepared.
 *
 * Owns the codec handles; used by one thread.
 */
import { createCompressor, freeCodec, type PacketBlock } from "@multifd/native";
import { type Compression, methodFlag, type PacketMethod } from "@multifd/protocol";

export type SendTerms = {
  readonly compression: Compression;
  /** Those that a packet may bear. */
  readonly methods: readonly PacketMethod[];
  readonly level: number;
};

export class SendCodecs {
  /** Handle of the zstd compressor, for who has a frame already; 0 where no packet may bear it. */
  readonly zstd: number;
  readonly #handles: ReadonlyMap<PacketMethod, number>;
  readonly #flags: ReadonlyMap<number, number>;
  /** Of every packet, pages or not, where there is one method only. */
  readonly #onlyFlag: number | null;
  readonly #next: number;

  /** @param packet  The channel's own: whether a packet may go out raw is set in it, for good. */
  constructor({ compression, methods, level }: SendTerms, packet: PacketBlock) {
    const method = compression === "auto" ? methods.at(-1)! : compression;
    this.#handles = new Map([[method, method === "none" ? 0 : createCompressor(method, level)]]);
    this.#flags = new Map([...this.#handles].map(([each, handle]) => [handle, methodFlag(each)]));
    this.#onlyFlag = methods.length === 1 ? methodFlag(methods[0]!) : null;
    this.#next = this.#handles.get(method)!;
    this.zstd = this.#handles.get("zstd") ?? 0;
    packet.rawFallback = method !== "none" && methods.includes("none");
  }

  free(): void {
    for (const handle of this.#handles.values()) if (handle !== 0) freeCodec(handle);
  }

  /** Handle of the compressor for the next packet; 0 for none. */
  next(): number {
    return this.#next;
  }

  /** The method's bits in the flags of a packet that was prepared, and came out with this handle. */
  flag(handle: number): number {
    if (this.#onlyFlag !== null) return this.#onlyFlag;
    return handle === 0 ? methodFlag("none") : this.#flags.get(handle)!;
  }
}
