/**
 * Snapshot of a QEMU: its guest into a file while it runs, with a pause for the last round only.
 *
 * The source is the live guest, tracked from outside, and its RAM goes from its file straight into the other. The
 * guest goes on when the last of its RAM and devices has been read, before any of
 * it need be on disk; what is kept is read back, and a failure at any time removes it.
 *
 *   look ─ track ─ borrow the settings ─ rounds ─ stop ─ devices, last round ─ go on ─▶ on disk ─ read back
 */
import { type EventSink, type MigrationResult, runSave } from "@multifd/engine";
import { ChannelError } from "@multifd/protocol";
import type { GuestKeeper } from "../drive/guest-keeper.js";
import { compareMachines } from "../drive/preflight.js";
import type { QemuFacts } from "../drive/qemu-facts.js";
import { type TrackedQemuTerms, whileQemuLives, withTrackedQemu } from "./tracked-qemu.js";
import { WholeGuest } from "./whole-guest.js";

export type SnapshotQemuJob = TrackedQemuTerms & {
  readonly keeper: GuestKeeper;
  readonly threads: number;
  readonly downtimeLimitMs: number;
  readonly maxBandwidth: number;
  readonly roundsMax: number;
  readonly atRoundLimit: "fail" | "switchover";
  readonly stallTimeoutMs: number;
  readonly onEvent: EventSink;
};

/**
 * Takes a snapshot.
 *
 * @returns The source's result; its downtime is how long the guest stood still.
 * @throws {MigrationError} what ended it; nothing is kept, and the guest runs as before. With code RESUME_FAILED it
 *   stands still.
 */
export function snapshotQemu(job: SnapshotQemuJob): Promise<MigrationResult> {
  return withTrackedQemu(job, async ({ facts, guest, capture }) => {
    const warning = await job.keeper.room(facts.ramBlocks.reduce((sum, { usedBytes }) => sum + usedBytes, 0));
    if (warning !== null) job.onWarning(warning);
    return await keep(job, facts, new WholeGuest(facts, guest, capture));
  });
}

async function keep(job: SnapshotQemuJob, facts: QemuFacts, guest: WholeGuest): Promise<MigrationResult> {
  const { keeper } = job;
  try {
    const result = await whileQemuLives(job, "saved", (signal) => save(job, guest, signal));
    compareMachines(await keeper.readBack(job.signal), facts, []);
    if (job.signal.aborted) throw new ChannelError("CANCELLED", "cancelled; nothing was kept");
    return { ...result, downtimeMs: guest.downtimeMs };
  } catch (error) {
    await keeper.discard();
    throw error;
  } finally {
    guest.close();
  }
}

function save(job: SnapshotQemuJob, guest: WholeGuest, signal: AbortSignal): Promise<MigrationResult> {
  const { keeper, threads, downtimeLimitMs, maxBandwidth, roundsMax, atRoundLimit, stallTimeoutMs, onEvent } = job;
  return runSave({
    guest,
    into: keeper.guest,
    name: "the snapshot",
    threads,
    devices: guest.part,
    onRead: () => guest.resume(),
    downtimeLimitMs,
    maxBandwidth,
    roundsMax,
    atRoundLimit,
    stallTimeoutMs,
    onEvent,
    signal,
  });
}
