/**
 * Restore: a saved guest into a QEMU that waits with `-incoming defer`.
 *
 * Everything that can be compared is compared first, while that QEMU is still as it
 * was started: a mismatch costs nothing and may be mended. From `migrate-incoming`
 * on it is spent, whatever happens: QEMU takes a stream in once.
 *
 *   look ─ compare ─ borrow the settings ─ migrate-incoming ─ send ─▶ loaded ─ (cont) ─ give back
 *
 * Whether the guest runs then is said by the saved run state and by QEMU's -S, unless
 * it is asked for; `stop` before the load is what QEMU takes for -S.
 */
import { type Address, formatAddress } from "@multifd/channel";
import { type DevicePart, type EventSink, type MigrationResult, runSource, type SourceGuest } from "@multifd/engine";
import { ChannelError, ConfigError, MigrationError, ProtocolError, type QemuCompression } from "@multifd/protocol";
import type { QmpClient } from "../qmp-client.js";
import { QemuSourcePeer } from "../source-peer.js";
import { isOver, type MigrationInfo } from "./migration-info.js";
import { MigrationSettings, multifdSettings } from "./migration-settings.js";
import { checkDestination, compareMachines, nameQemu } from "./preflight.js";
import { type QemuFacts, queryMachineTypes, queryMigration, queryQemu, queryRunState } from "./qemu-facts.js";

export type RestoreJob = {
  readonly qmp: QmpClient;
  readonly guest: SourceGuest;
  readonly devices: DevicePart;
  /** Where QEMU is told to listen, and we connect. */
  readonly listen: Address;
  readonly channels: number;
  readonly compression: QemuCompression;
  readonly level: number;
  /** Bytes per second; 0 for no limit. */
  readonly maxBandwidth: number;
  readonly connectTimeoutMs: number;
  readonly stallTimeoutMs: number;
  /** `as-saved` leaves it to the saved run state and QEMU's -S. */
  readonly afterwards: "as-saved" | "pause" | "resume";
  readonly onEvent: EventSink;
  /** What looks wrong and yet does not hinder. */
  readonly onWarning: (text: string) => void;
  readonly signal: AbortSignal;
};

/** From QEMU's word that the guest is its own until it shows it. */
const LOADED_MS = 20_000;
const LOOK_MS = 100;

/**
 * Restores a guest.
 *
 * @throws {ConfigError} before anything is sent: RUN_STATE, ALREADY_LISTENING, ALREADY_USED, MACHINE_TYPE_MISMATCH,
 *   RAM_BLOCK_MISSING, RAM_SIZE_MISMATCH, CAPABILITY_UNSUPPORTED, PARAMETER_UNSUPPORTED, SETTINGS_REFUSED; that QEMU can be tried again.
 * @throws {MigrationError} later; that QEMU is spent, and its guest has not run.
 */
export async function restoreVm(job: RestoreJob): Promise<MigrationResult> {
  const { qmp, listen } = job;
  if (listen.kind === "tcp" && listen.port === 0) {
    throw new ConfigError("ADDRESS", `${formatAddress(listen)}: QEMU has to be given a port of its own; name one`);
  }
  const facts = await queryQemu(qmp);
  checkDestination(facts);
  const saved = { machineType: job.devices.machineType, blocks: job.guest.ram.map(({ block }) => block) };
  for (const text of compareMachines(saved, facts, await queryMachineTypes(qmp))) job.onWarning(text);
  const settings = await MigrationSettings.take(qmp, nameQemu(facts));
  try {
    if (job.signal.aborted) throw new ChannelError("CANCELLED", "cancelled; QEMU goes on waiting");
    await settings.set(multifdSettings(job, job.maxBandwidth));
    return await takeIn(job, facts);
  } finally {
    await giveBack(settings, job);
  }
}

async function takeIn(job: RestoreJob, facts: QemuFacts): Promise<MigrationResult> {
  const { qmp, afterwards } = job;
  if (afterwards === "pause") await qmp.execute("stop");
  await qmp.execute("migrate-incoming", {
    uri: formatAddress(job.listen),
    ...(staysAfterFailure(facts) ? { "exit-on-error": false } : {}),
  });
  try {
    const result = await send(job, facts);
    await loaded(qmp);
    if (afterwards === "resume" && (await queryRunState(qmp)) !== "running") await qmp.execute("cont");
    return result;
  } catch (error) {
    throw await explain(qmp, error);
  }
}

/** Older ones exit when a guest cannot be loaded, and tell the reason on stderr only. */
function staysAfterFailure({ release }: QemuFacts): boolean {
  return release.major > 9 || (release.major === 9 && release.minor >= 1);
}

function send(job: RestoreJob, { uuid }: QemuFacts): Promise<MigrationResult> {
  const { listen, channels, connectTimeoutMs } = job;
  return runSource({
    guest: job.guest,
    peer: new QemuSourcePeer({ address: listen, channels, uuid, connectTimeoutMs }),
    onEvent: job.onEvent,
    signal: job.signal,
    compression: job.compression,
    level: job.level,
    devices: job.devices,
    maxBandwidth: job.maxBandwidth,
    stallTimeoutMs: job.stallTimeoutMs,
    // One round, for nobody writes: nothing is left to converge.
    downtimeLimitMs: 0,
    roundsMax: 1,
    atRoundLimit: "switchover",
  });
}

/** QEMU says that the guest is its own before it has left its state of waiting. */
async function loaded(qmp: QmpClient): Promise<void> {
  const deadline = performance.now() + LOADED_MS;
  for (;;) {
    const info = await queryMigration(qmp);
    const runState = await queryRunState(qmp);
    if (info.status === "completed" && runState !== "inmigrate") return;
    if (isOver(info) && info.status !== "completed") throw refused(info, null);
    if (performance.now() > deadline) {
      throw new ChannelError(
        "QEMU_SILENT",
        `QEMU has taken everything in, but its migration is "${info.status}" and its run state "${runState}" ${LOADED_MS} ms later; look at its monitor`,
      );
    }
    await newsOrTime(qmp);
  }
}

async function newsOrTime(qmp: QmpClient): Promise<void> {
  try {
    await qmp.waitForEvent("MIGRATION", () => true, LOOK_MS);
  } catch (error) {
    if (!(error instanceof ChannelError) || error.code !== "QMP_TIMEOUT") throw error;
  }
}

/** Puts QEMU's own reason, where it still tells one, in the place of the broken link that we saw. */
async function explain(qmp: QmpClient, error: unknown): Promise<unknown> {
  if (!(error instanceof MigrationError) || error.code === "CANCELLED") return error;
  try {
    const info = await queryMigration(qmp);
    if (info.status === "failed" && error.code !== "QEMU_MIGRATION_FAILED") return refused(info, error);
    return error;
  } catch {
    return new ProtocolError(
      "QEMU_ENDED",
      `QEMU ended while it took the guest in (${error.message}); its own log (stderr) says why`,
      { cause: error },
    );
  }
}

function refused(info: MigrationInfo, cause: unknown): ProtocolError {
  const words = info.error ?? "it failed, and its own log (stderr) says why";
  return new ProtocolError("QEMU_MIGRATION_FAILED", `QEMU: ${words}; it has to be started anew for another attempt`, {
    cause,
  });
}

/** A QEMU that ended has nothing to give back. */
async function giveBack(settings: MigrationSettings, job: RestoreJob): Promise<void> {
  try {
    await settings.restore();
  } catch (error) {
    if (error instanceof MigrationError && error.code === "QMP_CLOSED") return;
    job.onWarning(`the migration settings could not be given back: ${(error as Error).message}`);
  }
}
