/**
 * Pacer: keeps the wire below `maxBandwidth`.
 *
 * A token bucket that holds back packets, not bytes: the coordinator asks before
 * it publishes. A published packet counts in full until the channels have written
 * it; then what it really took counts. So compression is credited, and a burst
 * is bounded by the bucket. Not asked once a live guest is paused: those bytes are downtime.
 *
 * Pure: the caller brings the clock.
 */

/** The bucket holds this much time's worth: what may leave at once after a lull. */
const BURST_MS = 50;

export class Pacer {
  readonly #bytesPerMs: number;
  readonly #packetBytes: number;
  #granted = 0;
  #grantedAtMs: number;

  /**
   * @param maxBandwidth  Bytes per second; 0 for no limit.
   * @param packetBytes   What a packet takes on the wire at most.
   */
  constructor(maxBandwidth: number, packetBytes: number, nowMs: number) {
    this.#bytesPerMs = maxBandwidth / 1000;
    this.#packetBytes = packetBytes;
    this.#grantedAtMs = nowMs;
  }

  /**
   * How many more packets may be published.
   *
   * @param wireBytes    Written so far, over the whole migration.
   * @param outstanding  Packets published and not yet written.
   */
  packetsAllowed(nowMs: number, wireBytes: number, outstanding: number): number {
    if (this.#bytesPerMs === 0) return Number.POSITIVE_INFINITY;
    this.#granted += (nowMs - this.#grantedAtMs) * this.#bytesPerMs;
    this.#grantedAtMs = nowMs;
    // At least one packet, or a limit below a packet per burst would let nothing through, ever.
    const burst = Math.max(BURST_MS * this.#bytesPerMs, this.#packetBytes);
    this.#granted = Math.min(this.#granted, wireBytes + burst);
    return Math.floor((this.#granted - wireBytes) / this.#packetBytes) - outstanding;
  }
}
