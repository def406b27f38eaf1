/**
 * Receive a QEMU: the destination's side, before a QEMU that waits with `-incoming defer`.
 *
 *   look ─ borrow the settings ─ listen ─▶ agree ─ RAM ─ load ─▶ (the source lets go) ─ cont ─ give back
 */
import { type Address, formatAddress } from "@multifd/channel";
import { type EventSink, type MigrationResult, runDestination } from "@multifd/engine";
import { ChannelError, type Compression, MigrationError } from "@multifd/protocol";
import { QemuDestinationPeer } from "../destination-peer.js";
import { MigrationSettings } from "../drive/migration-settings.js";
import { checkDestination, nameQemu } from "../drive/preflight.js";
import { qemuGone } from "../drive/qemu-end.js";
import { queryMachineTypes, queryQemu } from "../drive/qemu-facts.js";
import type { QmpClient } from "../qmp-client.js";
import type { ReceptionTerms } from "../reception.js";
import { DestinationQemu, loadSettings } from "./destination-qemu.js";
import { takeMachineRecord } from "./machine-record.js";
import { findQemuPid, openSharedRam } from "./shared-ram.js";

export type ReceiveQemuJob = {
  readonly qmp: QmpClient;
  /** QEMU's process; undefined asks QEMU. */
  readonly pid?: number;
  /** RAM files by block name; those not named are found. */
  readonly ramFiles: ReadonlyMap<string, string>;
  /** Where `migrateQemu` connects. */
  readonly listen: Address;
  readonly terms: Omit<ReceptionTerms, "uuid">;
  /** A private socket where QEMU takes its devices in. */
  readonly meeting: Address;
  readonly compression: Compression;
  readonly stallTimeoutMs: number;
  /** `as-it-was`: the guest runs if it ran at the source. */
  readonly afterwards: "as-it-was" | "pause";
  readonly onEvent: EventSink;
  readonly onWarning: (text: string) => void;
  readonly signal: AbortSignal;
};

/**
 * Takes one guest in from `migrateQemu`.
 *
 * @throws {MigrationError} what ended it. No guest runs here then: QEMU goes on waiting, or has been ended if it had begun to
 *   load.
 */
export async function receiveQemu(job: ReceiveQemuJob): Promise<MigrationResult> {
  const { qmp, onWarning, meeting, afterwards } = job;
  const facts = await queryQemu(qmp);
  checkDestination(facts);
  const ram = await openSharedRam(qmp, facts, job.pid ?? (await findQemuPid(qmp)), "r+", job.ramFiles);
  try {
    const record = await takeMachineRecord(qmp, facts, ram);
    const machineTypes = await queryMachineTypes(qmp);
    const settings = await MigrationSettings.take(qmp, nameQemu(facts));
    try {
      await settings.set(loadSettings());
      const parts = { qmp, facts, machineTypes, ram, record, meeting, afterwards, onWarning };
      return await take(job, new DestinationQemu(parts), facts.uuid);
    } finally {
      await giveBack(settings, job);
    }
  } finally {
    ram.close();
  }
}

async function take(job: ReceiveQemuJob, guest: DestinationQemu, uuid: Uint8Array): Promise<MigrationResult> {
  const { listen, terms, compression, stallTimeoutMs, onEvent } = job;
  const gone = new AbortController();
  void qemuGone(job.qmp).then(() => gone.abort());
  const peer = await QemuDestinationPeer.listen(listen, { ...terms, uuid, compression });
  onEvent({ event: "listening", address: formatAddress(peer.address), channels: terms.channels });
  try {
    const signal = AbortSignal.any([job.signal, gone.signal]);
    return await runDestination({ guest, peer, onEvent, signal, compression, stallTimeoutMs });
  } catch (error) {
    const echo = error instanceof MigrationError && error.code === "CANCELLED";
    if (!gone.signal.aborted || job.signal.aborted || !echo) throw error;
    throw new ChannelError("QMP_CLOSED", "QEMU ended, or closed its QMP socket, while it took the guest in", {
      cause: error,
    });
  }
}

/** A QEMU that ended has nothing to give back. */
async function giveBack(settings: MigrationSettings, job: ReceiveQemuJob): Promise<void> {
  try {
    await settings.restore();
  } catch (error) {
    if (error instanceof MigrationError && error.code === "QMP_CLOSED") return;
    job.onWarning(`the migration settings could not be given back: ${(error as Error).message}`);
  }
}
