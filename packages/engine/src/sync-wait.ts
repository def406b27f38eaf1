/**
 * Sync wait: the coordinator's side of the barrier, for whoever reads a source's main channel.
 *
 * The main channel has spoken of a SYNC; every channel must come to it. One whose
 * stream has ended will not, and is named at once instead of being waited for.
 */
import type { Channel } from "@multifd/channel";
import type { SyncBarrier } from "@multifd/dataplane";
import { ChannelError } from "@multifd/protocol";
import { explainFailure } from "./channel-failure.js";
import type { FirstFailure } from "./first-failure.js";

/** The bell rings for everything; this only bounds what a lost wake-up could cost. */
const WAKE_UP_MS = 200;

/**
 * Waits until every channel has met its SYNC number `sync`; releases none.
 *
 * @param channels  Asked why one of them has ended.
 * @param waiting   Told which channels are still missing, before each wait.
 * @throws {ChannelError} CHANNEL_ENDED_EARLY, or why TLS ended. @throws what `failure` holds.
 */
export async function awaitSync(
  channels: readonly Channel[],
  barrier: SyncBarrier,
  sync: number,
  failure: FirstFailure,
  waiting: (missing: readonly number[]) => void,
): Promise<void> {
  for (;;) {
    const bell = barrier.bell;
    failure.check();
    const missing = barrier.missing(sync);
    if (missing.length === 0) return;
    waiting(missing);
    // A channel arrives before it ends, so whoever has ended and is still missing will not come.
    const gone = missing.filter((channel) => barrier.ended(channel));
    const lost = barrier.missing(sync).filter((channel) => gone.includes(channel));
    const [first] = lost;
    if (first !== undefined) throw await explainFailure(channels[first]!, first, endedEarly(lost, sync));
    await barrier.waitForBell(bell, WAKE_UP_MS);
  }
}

function endedEarly(channels: readonly number[], sync: number): ChannelError {
  return new ChannelError(
    "CHANNEL_ENDED_EARLY",
    `channel ${channels.join(", ")}: the stream ended before SYNC ${sync}, which the main channel has announced; the source or the link went away`,
  );
}
