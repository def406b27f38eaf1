/**
 * Migrate a QEMU: the source's side from the first question to the guest's leave.
 *
 *   look ─ track ─ borrow the settings ─▶ agree ─ rounds ─ get ready ─ stop ─ last round ─▶ loaded there ─ let go ─▶ running there
 *
 * Every failure before the destination runs the guest undoes all of it in the reverse order:
 * the guest goes on here, tracking ends, and the settings are as they were.
 */
import { type EventSink, type MigrationResult, runSource } from "@multifd/engine";
import type { Compression } from "@multifd/protocol";
import { quitQemu } from "../drive/qemu-end.js";
import { QemuSourcePeer, type QemuSourceTerms } from "../source-peer.js";
import type { DeviceCapture } from "./device-capture.js";
import type { SourceQemu } from "./source-qemu.js";
import { type TrackedQemuTerms, tidy, whileQemuLives, withTrackedQemu } from "./tracked-qemu.js";

export type MigrateQemuJob = TrackedQemuTerms & {
  /** Where `receiveQemu` listens. */
  readonly to: Omit<QemuSourceTerms, "uuid" | "dialect" | "returnPath">;
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
};

/**
 * Migrates a running guest to a QEMU behind `receiveQemu`.
 *
 * @throws {MigrationError} what ended it; the guest runs here as before, and tracking has ended. With codes
 *   ACKNOWLEDGEMENT_LOST and RESUME_FAILED it stands still here.
 */
export function migrateQemu(job: MigrateQemuJob): Promise<MigrationResult> {
  return withTrackedQemu(job, async ({ facts, guest, capture }) => {
    const result = await whileQemuLives(job, "migrated", (signal) => send(job, guest, facts.uuid, signal));
    await letGo(job, capture);
    return result;
  });
}

function send(job: MigrateQemuJob, guest: SourceQemu, uuid: Uint8Array, signal: AbortSignal): Promise<MigrationResult> {
  const { compression, level, downtimeLimitMs, maxBandwidth, roundsMax, atRoundLimit, stallTimeoutMs, onEvent } = job;
  return runSource({
    guest,
    peer: new QemuSourcePeer({ ...job.to, uuid, compression }),
    onEvent,
    signal,
    compression,
    level,
    devices: null,
    downtimeLimitMs,
    maxBandwidth,
    roundsMax,
    atRoundLimit,
    stallTimeoutMs,
  });
}

/** QEMU's guest runs elsewhere now: nothing here may fail any more. */
async function letGo(job: MigrateQemuJob, capture: DeviceCapture): Promise<void> {
  await tidy(job, "QEMU does not say that its guest has left", () => capture.released());
  if (job.afterwards === "quit") await tidy(job, "QEMU could not be ended", () => quitQemu(job.qmp));
}
