/**
 * Receive a QEMU: the destination's side, before a QEMU that waits with `-incoming defer`.
 *
 *   look ─ borrow the settings ─ listen ─▶ agree ─ RAM ─ load ─▶ (the source lets go) ─ cont ─ give back
 */
import { type Address, formatAddress } from "@multifd/channel";
import { type DestinationGuest, type EventSink, type MigrationResult, runDestination } from "@multifd/engine";
import { ChannelError, type Compression, MigrationError } from "@multifd/protocol";
import { QemuDestinationPeer } from "../destination-peer.js";
import type { ReceptionTerms } from "../reception.js";
import { WaitingQemu, type WaitingQemuTerms } from "./waiting-qemu.js";

/** How a guest comes in, whatever it comes into. */
export type IntakeJob = {
  /** Where `migrateQemu` connects. */
  readonly listen: Address;
  readonly terms: Omit<ReceptionTerms, "uuid">;
  readonly compression: Compression;
  readonly stallTimeoutMs: number;
  readonly onEvent: EventSink;
  readonly signal: AbortSignal;
};

export type ReceiveQemuJob = IntakeJob & WaitingQemuTerms;

/**
 * Takes one guest in from `migrateQemu`.
 *
 * @throws {MigrationError} what ended it. No guest runs here then: QEMU goes on waiting, or has been ended if it had begun to
 *   load.
 */
export async function receiveQemu(job: ReceiveQemuJob): Promise<MigrationResult> {
  const waiting = await WaitingQemu.open(job);
  try {
    const { guest, gone, facts } = waiting;
    return await takeIn(job, guest, gone, facts.uuid);
  } finally {
    await waiting.close();
  }
}

/**
 * Listens, and takes a guest in.
 *
 * @param gone  Resolves when the QEMU that it goes into has gone.
 * @param uuid  What every channel has to bear; undefined takes any.
 */
export async function takeIn(
  job: IntakeJob,
  guest: DestinationGuest,
  gone: Promise<void>,
  uuid: Uint8Array | undefined,
): Promise<MigrationResult> {
  const { listen, terms, compression, stallTimeoutMs, onEvent } = job;
  const lost = new AbortController();
  void gone.then(() => lost.abort());
  const peer = await QemuDestinationPeer.listen(listen, { ...terms, compression, ...(uuid && { uuid }) });
  onEvent({ event: "listening", address: formatAddress(peer.address), channels: terms.channels });
  try {
    const signal = AbortSignal.any([job.signal, lost.signal]);
    return await runDestination({ guest, peer, onEvent, signal, compression, stallTimeoutMs });
  } catch (error) {
    const echo = error instanceof MigrationError && error.code === "CANCELLED";
    if (!lost.signal.aborted || job.signal.aborted || !echo) throw error;
    throw new ChannelError("QMP_CLOSED", "QEMU ended, or closed its QMP socket, while it took the guest in", {
      cause: error,
    });
  }
}
