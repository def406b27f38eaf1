/**
 * Tracked QEMU: a running QEMU whose RAM files are open, whose writes are tracked, and which hands its devices to us.
 *
 * What is borrowed for that is given back in the reverse order, however the matter ended:
 *
 *   look ─ open the RAM files ─ listen for the devices ─ borrow the settings ─ track ─▶ use
 */
import type { Address } from "@multifd/channel";
import { attachTracking, directIoFiles } from "@multifd/engine";
import { ChannelError, MigrationError } from "@multifd/protocol";
import { MigrationSettings } from "../drive/migration-settings.js";
import { checkSource, nameQemu } from "../drive/preflight.js";
import { qemuGone } from "../drive/qemu-end.js";
import { type QemuFacts, queryQemu } from "../drive/qemu-facts.js";
import type { QmpClient } from "../qmp-client.js";
import { captureSettings, DeviceCapture } from "./device-capture.js";
import { refuseForeignDevices } from "./foreign-devices.js";
import { takeMachineRecord } from "./machine-record.js";
import { findQemuPid, openSharedRam } from "./shared-ram.js";
import { SourceQemu } from "./source-qemu.js";

export type TrackedQemuTerms = {
  readonly qmp: QmpClient;
  /** QEMU's process; undefined asks QEMU. */
  readonly pid?: number;
  /** A private socket where QEMU hands its devices over. */
  readonly meeting: Address;
  readonly onWarning: (text: string) => void;
  readonly signal: AbortSignal;
};

export type TrackedQemu = {
  readonly facts: QemuFacts;
  readonly guest: SourceQemu;
  readonly capture: DeviceCapture;
};

/**
 * Runs `use` on a QEMU's guest while its writes are tracked.
 *
 * @throws {MigrationError} why it cannot be tracked, before anything has been touched; and whatever `use` throws.
 */
export async function withTrackedQemu<Result>(
  terms: TrackedQemuTerms,
  use: (tracked: TrackedQemu) => Promise<Result>,
): Promise<Result> {
  const { qmp } = terms;
  const facts = await queryQemu(qmp);
  await refuseForeignDevices(qmp); // QEMU's own reasons, which may stand in its way too, tell less
  checkSource(facts);
  const ram = await openSharedRam(qmp, facts, terms.pid ?? (await findQemuPid(qmp)), "r", new Map());
  try {
    const record = await takeMachineRecord(qmp, facts, ram);
    const shared = new Map(ram.blocks.map(({ block }) => [block.name, block.lengthBytes]));
    const { machineType } = facts;
    const capture = await DeviceCapture.listen(qmp, terms.meeting, { machineType, shared }, record.running);
    try {
      const settings = await MigrationSettings.take(qmp, nameQemu(facts));
      try {
        await settings.set(captureSettings());
        const direct = directIoFiles(ram.pid).length > 0 ? qmp : null;
        const tracking = await attachTracking({ pid: ram.pid, ram: ram.blocks, transfersHeld: direct !== null });
        try {
          const guest = new SourceQemu(ram, tracking.tracker, record, capture, settings, direct);
          return await use({ facts, guest, capture });
        } finally {
          await tidy(terms, "write tracking could not be ended", () => tracking.detach());
        }
      } finally {
        await tidy(terms, "the migration settings could not be given back", () => settings.restore());
      }
    } finally {
      capture.close();
    }
  } finally {
    ram.close();
  }
}

/**
 * Runs `act` as long as QEMU answers.
 *
 * @param done  What becomes of its guest meanwhile, for the message: `migrated`.
 * @throws {ChannelError} QMP_CLOSED; and whatever `act` throws.
 */
export async function whileQemuLives<Result>(
  { qmp, signal }: TrackedQemuTerms,
  done: string,
  act: (signal: AbortSignal) => Promise<Result>,
): Promise<Result> {
  const gone = new AbortController();
  void qemuGone(qmp).then(() => gone.abort());
  try {
    return await act(AbortSignal.any([signal, gone.signal]));
  } catch (cause) {
    if (!gone.signal.aborted || signal.aborted) throw cause;
    throw new ChannelError("QMP_CLOSED", `QEMU ended, or closed its QMP socket, while its guest was ${done}`, {
      cause,
    });
  }
}

/** Does what has to be done and may not end the matter; a QEMU that is gone has nothing left to tidy. */
export async function tidy(
  { onWarning }: TrackedQemuTerms,
  trouble: string,
  action: () => Promise<void>,
): Promise<void> {
  try {
    await action();
  } catch (error) {
    if (error instanceof MigrationError && error.code === "QMP_CLOSED") return;
    onWarning(`${trouble}: ${(error as Error).message}`);
  }
}
