/**
 * Snapshot of a QEMU: its guest into a file while it runs, with a pause for the last round only.
 *
 * The source is the live guest, tracked from outside, and its RAM goes from its file straight into the other. The
 * guest goes on when the last of its RAM and devices has been read, before any of
 * it need be on disk; what is kept is read back, and a failure at any time removes it.
 *
 *   look ─ track ─ borrow the settings ─ rounds ─ stop ─ devices, last round ─ go on ─▶ on disk ─ read back
 */
import type { Address } from "@multifd/channel";
import { attachTracking, directIoFiles, type EventSink, type MigrationResult, runSave } from "@multifd/engine";
import { ChannelError, MigrationError } from "@multifd/protocol";
import type { GuestKeeper } from "../drive/guest-keeper.js";
import { MigrationSettings } from "../drive/migration-settings.js";
import { checkSource, compareMachines, nameQemu } from "../drive/preflight.js";
import { qemuGone } from "../drive/qemu-end.js";
import { type QemuFacts, queryQemu } from "../drive/qemu-facts.js";
import type { QmpClient } from "../qmp-client.js";
import { captureSettings, DeviceCapture } from "./device-capture.js";
import { refuseForeignDevices } from "./foreign-devices.js";
import { takeMachineRecord } from "./machine-record.js";
import { findQemuPid, openSharedRam } from "./shared-ram.js";
import { SourceQemu } from "./source-qemu.js";
import { WholeGuest } from "./whole-guest.js";

export type SnapshotQemuJob = {
  readonly qmp: QmpClient;
  /** QEMU's process; undefined asks QEMU. */
  readonly pid?: number;
  readonly keeper: GuestKeeper;
  /** A private socket where QEMU hands its devices over. */
  readonly meeting: Address;
  readonly threads: number;
  readonly downtimeLimitMs: number;
  readonly maxBandwidth: number;
  readonly roundsMax: number;
  readonly atRoundLimit: "fail" | "switchover";
  readonly stallTimeoutMs: number;
  readonly onEvent: EventSink;
  readonly onWarning: (text: string) => void;
  readonly signal: AbortSignal;
};

/**
 * Takes a snapshot.
 *
 * @returns The source's result; its downtime is how long the guest stood still.
 * @throws {MigrationError} what ended it; nothing is kept, and the guest runs as before. With code RESUME_FAILED it
 *   stands still.
 */
export async function snapshotQemu(job: SnapshotQemuJob): Promise<MigrationResult> {
  const { qmp, keeper } = job;
  const facts = await queryQemu(qmp);
  await refuseForeignDevices(qmp); // QEMU's own reasons, which may stand in its way too, tell less
  checkSource(facts);
  const warning = await keeper.room(facts.ramBlocks.reduce((sum, { usedBytes }) => sum + usedBytes, 0));
  if (warning !== null) job.onWarning(warning);
  const ram = await openSharedRam(qmp, facts, job.pid ?? (await findQemuPid(qmp)), "r", new Map());
  try {
    const record = await takeMachineRecord(qmp, facts, ram);
    const shared = new Map(ram.blocks.map(({ block }) => [block.name, block.lengthBytes]));
    const terms = { machineType: facts.machineType, shared };
    const capture = await DeviceCapture.listen(qmp, job.meeting, terms, record.running);
    const settings = await MigrationSettings.take(qmp, nameQemu(facts));
    try {
      await settings.set(captureSettings());
      const direct = directIoFiles(ram.pid).length > 0 ? qmp : null;
      const tracking = await attachTracking({ pid: ram.pid, ram: ram.blocks, transfersHeld: direct !== null });
      try {
        const live = new SourceQemu(ram, tracking.tracker, record, capture, settings, direct);
        return await keep(job, facts, new WholeGuest(facts, live, capture));
      } finally {
        await tidy(job, "write tracking could not be ended", () => tracking.detach());
      }
    } finally {
      await tidy(job, "the migration settings could not be given back", () => settings.restore());
      capture.close();
    }
  } finally {
    ram.close();
  }
}

async function keep(job: SnapshotQemuJob, facts: QemuFacts, guest: WholeGuest): Promise<MigrationResult> {
  const { keeper } = job;
  try {
    const result = await move(job, guest);
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

async function move(job: SnapshotQemuJob, guest: WholeGuest): Promise<MigrationResult> {
  const { qmp, keeper, threads, downtimeLimitMs, maxBandwidth, roundsMax, atRoundLimit, stallTimeoutMs, onEvent } = job;
  const gone = new AbortController();
  void qemuGone(qmp).then(() => gone.abort());
  try {
    return await runSave({
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
      signal: AbortSignal.any([job.signal, gone.signal]),
    });
  } catch (error) {
    if (!gone.signal.aborted || job.signal.aborted) throw error;
    throw new ChannelError("QMP_CLOSED", "QEMU ended, or closed its QMP socket, while its guest was saved", {
      cause: error,
    });
  }
}

/** Does what has to be done and may not end the snapshot; a QEMU that is gone has nothing left to tidy. */
async function tidy({ onWarning }: SnapshotQemuJob, trouble: string, action: () => Promise<void>): Promise<void> {
  try {
    await action();
  } catch (error) {
    if (error instanceof MigrationError && error.code === "QMP_CLOSED") return;
    onWarning(`${trouble}: ${(error as Error).message}`);
  }
}
