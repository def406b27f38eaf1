/** Guest left behind: how a source whose migration failed answers for its guest, which goes on here or stays paused. */
import { ChannelError, SystemError } from "@multifd/protocol";
import type { SourceGuest } from "./guest.js";

/**
 * Lets a guest go on here.
 *
 * @param error  What ended its migration.
 * @returns What to tell: `error`, or RESUME_FAILED where it could not.
 */
export async function resumeAfter(error: unknown, guest: Pick<SourceGuest, "resume">): Promise<unknown> {
  try {
    await guest.resume();
    return error;
  } catch (cause) {
    return new SystemError(
      "RESUME_FAILED",
      `${(error as Error).message}; and the guest could not be resumed here: ${(cause as Error).message}`,
      { cause },
    );
  }
}

/** What to tell where the guest has to stay paused, because nobody knows. @returns {ChannelError} ACKNOWLEDGEMENT_LOST. */
export function acknowledgementLost(cause: unknown): ChannelError {
  return new ChannelError(
    "ACKNOWLEDGEMENT_LOST",
    `everything was sent, and then the destination's word was lost (${messageOf(cause)}); the guest stays paused here, for it may run there: look at the destination, then resume exactly one of the two`,
    { cause },
  );
}

/** What was thrown, in its own words. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
