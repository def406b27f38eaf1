/**
 * Channel failure: what a channel showed, or the better reason that lies beneath it.
 *
 * A channel whose TLS connection broke shows a stream that ended, to the thread
 * that reads it and to the coordinator that waits for its SYNC; told is why. And a
 * destination that goes away for a reason breaks all channels, but says so on the main channel.
 */
import type { Channel } from "@multifd/channel";
import { ChannelError, placeError } from "@multifd/protocol";
import type { FirstFailure } from "./first-failure.js";

/** How long a broken channel to a destination waits for the word that explains it. */
const LAST_WORD_MS = 500;

/** @returns `shown`, or the reason for it, placed. */
export async function explainFailure(channel: Channel | undefined, index: number, shown: Error): Promise<unknown> {
  const reason = channel === undefined ? shown : await channel.explain(shown);
  return reason === shown ? shown : placeError(reason, `channel ${index}`);
}

/** Fails with what ended a channel to a destination, unless the destination's own word comes first. */
export function failAfterLastWord(failure: FirstFailure, error: unknown): void {
  const timer = setTimeout(() => failure.fail(error), LAST_WORD_MS);
  timer.unref();
  if (!(error instanceof ChannelError)) failure.fail(error);
}
