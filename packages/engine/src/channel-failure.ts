/**
 * Channel failure: what a channel showed, or the better reason that lies beneath it.
 *
 * A channel whose TLS connection broke shows a stream that ended, to the thread
 * that reads it and to the coordinator that waits for its SYNC; told is why.
 */
import type { Channel } from "@multifd/channel";
import { placeError } from "@multifd/protocol";

/** @returns `shown`, or the reason for it, placed. */
export async function explainFailure(channel: Channel, index: number, shown: Error): Promise<unknown> {
  const reason = await channel.explain(shown);
  return reason === shown ? shown : placeError(reason, `channel ${index}`);
}
