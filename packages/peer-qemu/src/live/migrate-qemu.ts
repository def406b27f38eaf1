/**
 * Migrate a QEMU: the source's side from the first question to the guest's leave.
 *
 *   look ─ track ─ borrow the settings ─▶ agree ─ rounds ─ get ready ─ stop ─ last round ─▶ loaded there ─ let go ─▶ running there
 *
 * Every failure before the destination runs the guest undoes all of it in the reverse order:
 * the guest goes on here, tracking ends, and the settings are as they were.
 */
import type { Address } from "@multifd/channel";
import { attachTracking, directIoFiles, type EventSink, type MigrationResult, runSource } from "@multifd/engine";
import { ChannelError, type Compression, MigrationError } from "@multifd/protocol";
import { MigrationSettings } from "../drive/migration-settings.js";
import { checkSource, nameQemu } from "../drive/preflight.js";
import { qemuGone, quitQemu } from "../drive/qemu-end.js";
import { queryQemu } from "../drive/qemu-facts.js";
import type { QmpClient } from "../qmp-client.js";
import { QemuSourcePeer, type QemuSourceTerms } from "../source-peer.js";
import { captureSettings, DeviceCapture } from "./device-capture.js";
import { refuseForeignDevices } from "./foreign-devices.js";
import { takeMachineRecord } from "./machine-record.js";
import { findQemuPid, openSharedRam } from "./shared-ram.js";
import { SourceQemu } from "./source-qemu.js";

export type MigrateQemuJob = {
  readonly qmp: QmpClient;
  /** QEMU's process; undefined asks QEMU. */
  readonly pid?: number;
  /** Where `receiveQemu` listens. */
  readonly to: Omit<QemuSourceTerms, "uuid" | "dialect" | "returnPath">;
  /** A private socket where QEMU hands its devices over. */
  readonly meeting: Address;
  readonly compression: Compression;
  readonly level: number;
  readonly downtimeLimitMs: number;
  readonly maxBandwidth: number;
  readonly roundsMax: number;
  readonly atRoundLimit: "fail" | "switchover";
  readonly stallTimeoutMs: number;
  /** What becomes of this QEMU when its guest runs at the destination. */
  readonly afterwards: "pause" | "quit";
  readonly onEvent: EventSink;
  readonly onWarning: (text: string) => void;
  readonly signal: AbortSignal;
};

/**
 * Migrates a running guest to a QEMU behind `receiveQemu`.
 *
 * @throws {MigrationError} what ended it; the guest runs here as before, and tracking has ended. With codes
 *   ACKNOWLEDGEMENT_LOST and RESUME_FAILED it stands still here.
 */
export async function migrateQemu(job: MigrateQemuJob): Promise<MigrationResult> {
  const { qmp } = job;
  const facts = await queryQemu(qmp);
  await refuseForeignDevices(qmp); // QEMU's own reasons, which may stand in its way too, tell less
  checkSource(facts);
  const ram = await openSharedRam(qmp, facts, job.pid ?? (await findQemuPid(qmp)), "r", new Map());
  try {
    const record = await takeMachineRecord(qmp, facts, ram);
    const shared = new Map(ram.blocks.map(({ block }) => [block.name, block.lengthBytes]));
    const terms = { machineType: facts.machineType, shared };
    const capture = await DeviceCapture.listen(qmp, job.meeting, terms, record.running);
    try {
      const settings = await MigrationSettings.take(qmp, nameQemu(facts));
      try {
        await settings.set(captureSettings());
        const direct = directIoFiles(ram.pid).length > 0 ? qmp : null;
        const tracking = await attachTracking({ pid: ram.pid, ram: ram.blocks, transfersHeld: direct !== null });
        try {
          const guest = new SourceQemu(ram, tracking.tracker, record, capture, settings, direct);
          const result = await send(job, guest, facts.uuid);
          await letGo(job, capture);
          return result;
        } finally {
          await tidy(job, "write tracking could not be ended", () => tracking.detach());
        }
      } finally {
        await tidy(job, "the migration settings could not be given back", () => settings.restore());
      }
    } finally {
      capture.close();
    }
  } finally {
    ram.close();
  }
}

async function send(job: MigrateQemuJob, guest: SourceQemu, uuid: Uint8Array): Promise<MigrationResult> {
  const { compression, level, downtimeLimitMs, maxBandwidth, roundsMax, atRoundLimit, stallTimeoutMs, onEvent } = job;
  const gone = new AbortController();
  void qemuGone(job.qmp).then(() => gone.abort());
  try {
    return await runSource({
      guest,
      peer: new QemuSourcePeer({ ...job.to, uuid, compression: job.compression }),
      onEvent,
      signal: AbortSignal.any([job.signal, gone.signal]),
      compression,
      level,
      devices: null,
      downtimeLimitMs,
      maxBandwidth,
      roundsMax,
      atRoundLimit,
      stallTimeoutMs,
    });
  } catch (error) {
    if (!gone.signal.aborted || job.signal.aborted) throw error;
    throw new ChannelError("QMP_CLOSED", "QEMU ended, or closed its QMP socket, while its guest was migrated", {
      cause: error,
    });
  }
}

/** QEMU's guest runs elsewhere now: nothing here may fail any more. */
async function letGo(job: MigrateQemuJob, capture: DeviceCapture): Promise<void> {
  await tidy(job, "QEMU does not say that its guest has left", () => capture.released());
  if (job.afterwards === "quit") await tidy(job, "QEMU could not be ended", () => quitQemu(job.qmp));
}

/** Does what has to be done and may not end the migration; a QEMU that is gone has nothing left to tidy. */
async function tidy({ onWarning }: MigrateQemuJob, trouble: string, action: () => Promise<void>): Promise<void> {
  try {
    await action();
  } catch (error) {
    if (error instanceof MigrationError && error.code === "QMP_CLOSED") return;
    onWarning(`${trouble}: ${(error as Error).message}`);
  }
}
