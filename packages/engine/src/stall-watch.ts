/**
 * Stall watch: ends a migration in which nothing moves any more.
 *
 * A peer that hangs, or a link that drops packets without a word, closes
 * nothing; without a clock of our own both ends would wait for ever. Any byte
 * that crosses, or any packet, is a sign of life.
 */
import { ChannelError } from "@multifd/protocol";

export class StallWatch {
  readonly #timer: NodeJS.Timeout | null;

  /**
   * @param timeoutMs  0 switches the watch off.
   * @param sign       A number that changes with every sign of life.
   * @param describe   What is being waited for, for the message.
   */
  constructor(timeoutMs: number, sign: () => number, describe: () => string, fail: (error: ChannelError) => void) {
    if (timeoutMs === 0) {
      this.#timer = null;
      return;
    }
    let last = sign();
    let since = performance.now();
    const check = () => {
      const now = sign();
      if (now !== last) {
        last = now;
        since = performance.now();
      } else if (performance.now() - since >= timeoutMs) {
        fail(
          new ChannelError(
            "STALLED",
            `nothing has moved for ${timeoutMs} ms while ${describe()}; is the peer still alive, and set to the same channels and compression?`,
          ),
        );
      }
    };
    this.#timer = setInterval(check, Math.max(10, Math.min(1000, timeoutMs / 4)));
  }

  stop(): void {
    if (this.#timer !== null) clearInterval(this.#timer);
  }
}
