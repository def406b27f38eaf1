/**
 * Save: the guest of a running QEMU into our receiver, in this process.
 *
 * QEMU migrates to a socket of ours and is told that it arrived only when the guest
 * is on its medium. As we are the destination and start no guest, QEMU's may always be
 * resumed: whatever fails, and whenever it is cancelled, QEMU's migration ends, what was kept is thrown
 * away, the settings are as they were found, and the guest runs if it ran before.
 *
 *   look ─ borrow the settings ─ listen ─ migrate ─▶ kept ─ count ─ (resume) ─ read back ─ (quit) ─ give back
 *
 * Completed means: QEMU says so; it was told so by us; no page
 * that it counts is missing here; and what was kept reads back as this machine with all of its RAM.
 */
import { type Address, formatAddress } from "@multifd/channel";
import { type EventSink, type MigrationResult, runDestination } from "@multifd/engine";
import { ChannelError, MigrationError, ProtocolError, type QemuCompression } from "@multifd/protocol";
import { QemuDestinationPeer } from "../destination-peer.js";
import type { QmpClient } from "../qmp-client.js";
import { drivenSource } from "./driven-source.js";
import type { GuestKeeper } from "./guest-keeper.js";
import { isOver, type MigrationInfo } from "./migration-info.js";
import { MigrationSettings, multifdSettings } from "./migration-settings.js";
import { OutgoingMigration } from "./outgoing-migration.js";
import { checkSource, nameQemu } from "./preflight.js";
import { quitQemu } from "./qemu-end.js";
import { type QemuFacts, queryMigration, queryQemu, queryRunState } from "./qemu-facts.js";
import { checkCounts, checkMachine } from "./save-check.js";

export type SaveJob = {
  readonly qmp: QmpClient;
  readonly keeper: GuestKeeper;
  /** An address that QEMU can reach. */
  readonly listen: Address;
  readonly channels: number;
  readonly compression: QemuCompression;
  readonly level: number;
  /** Bytes per second while the guest runs; 0 for no limit. */
  readonly maxBandwidth: number;
  readonly downtimeLimitMs: number;
  readonly roundsMax: number;
  readonly atRoundLimit: "fail" | "switchover";
  readonly stallTimeoutMs: number;
  /** What becomes of the VM once its guest is saved. */
  readonly afterwards: "pause" | "resume" | "quit";
  readonly onEvent: EventSink;
  /** What went wrong beside the matter itself. */
  readonly onWarning: (text: string) => void;
  readonly signal: AbortSignal;
};

const HANDSHAKE_MS = 10_000;
/** Source: QEMU 11.1, migration/options.h, MAX_MIGRATE_DOWNTIME. */
const DOWNTIME_MS_MAX = 2_000_000;
/** What we end with when QEMU ended, and QEMU knows better why. */
const ECHOES = ["STREAM_CUT", "CHANNEL_BROKEN", "CHANNEL_CUT", "CHANNEL_ENDED_EARLY", "CANCELLED"];

/**
 * Saves a guest.
 *
 * @throws {MigrationError} what ended it; QEMU is as it was before then, as far as it still answers, and what it does not
 *   take back goes to `onWarning`. With code RESUME_FAILED the guest stands still in QEMU.
 */
export async function saveVm(job: SaveJob): Promise<MigrationResult> {
  const facts = await queryQemu(job.qmp);
  checkSource(facts);
  const settings = await MigrationSettings.take(job.qmp, nameQemu(facts));
  return await new Save(job, facts, settings).run();
}

class Save {
  readonly #job: SaveJob;
  readonly #facts: QemuFacts;
  readonly #settings: MigrationSettings;
  readonly #migration: OutgoingMigration;
  #connected = false;

  constructor(job: SaveJob, facts: QemuFacts, settings: MigrationSettings) {
    this.#job = job;
    this.#facts = facts;
    this.#settings = settings;
    this.#migration = new OutgoingMigration(job.qmp, job.onEvent);
  }

  async run(): Promise<MigrationResult> {
    const { afterwards, qmp } = this.#job;
    try {
      await this.#lookForRoom();
      this.#checkCancelled();
      await this.#settings.set(this.#wanted());
      const { result, info } = await this.#migrate();
      this.#checkCancelled();
      checkCounts(result, info);
      const downtimeMs = afterwards === "resume" ? await this.#resume(info) : null;
      await this.#readBack();
      await this.#giveBackSettings();
      if (afterwards === "quit") await quitQemu(qmp);
      return { ...result, downtimeMs };
    } catch (error) {
      await this.#undo(error);
      throw error;
    }
  }

  async #lookForRoom(): Promise<void> {
    const ramBytes = this.#facts.ramBlocks.reduce((sum, block) => sum + block.usedBytes, 0);
    const warning = await this.#job.keeper.room(ramBytes);
    if (warning !== null) this.#job.onWarning(warning);
  }

  /** @returns For how long a guest that ran has stood still; null where it did not run. */
  async #resume(info: MigrationInfo): Promise<number | null> {
    const endedMs = performance.now();
    await this.#job.qmp.execute("cont");
    if (!this.#ranBefore || info.downtimeMs === null) return null;
    return info.downtimeMs + Math.round(performance.now() - endedMs);
  }

  get #ranBefore(): boolean {
    return this.#facts.runState === "running";
  }

  #wanted() {
    const { maxBandwidth, downtimeLimitMs } = this.#job;
    const { capabilities, parameters } = multifdSettings(this.#job, maxBandwidth);
    const downtime = { "downtime-limit": Math.min(downtimeLimitMs, DOWNTIME_MS_MAX) };
    return { capabilities, parameters: { ...parameters, ...downtime } };
  }

  /** Moves the guest into the keeper. */
  async #migrate(): Promise<{ result: MigrationResult; info: MigrationInfo }> {
    const { listen, channels, keeper, compression, stallTimeoutMs } = this.#job;
    const peer = await QemuDestinationPeer.listen(listen, {
      channels,
      uuid: this.#facts.uuid,
      handshakeTimeoutMs: HANDSHAKE_MS,
    });
    const uri = formatAddress(reachable(peer.address));
    const giveUp = new AbortController();
    const signal = AbortSignal.any([this.#job.signal, giveUp.signal]);
    const onEvent: EventSink = (event) => {
      if (event.event === "connected") this.#connected = true;
      this.#job.onEvent(event);
    };
    const watching = this.#watch(uri);
    const source = drivenSource(peer, async () => {
      await Promise.allSettled([this.#cancelAndWait()]); // where that fails, the watch fails alike
    });
    const receiving = runDestination({
      guest: keeper.guest,
      peer: source,
      onEvent,
      signal,
      compression,
      stallTimeoutMs,
    });
    receiving.then(
      () => this.#migration.expectEnd(),
      () => {},
    );
    watching.then(
      () => giveUp.abort(),
      () => giveUp.abort(),
    );
    const [ours, theirs] = await Promise.allSettled([receiving, watching]);
    return this.#settle(ours, theirs, uri);
  }

  /** One outcome from both sides' words. */
  #settle(
    ours: PromiseSettledResult<MigrationResult>,
    theirs: PromiseSettledResult<MigrationInfo>,
    uri: string,
  ): { result: MigrationResult; info: MigrationInfo } {
    const ourError: unknown = ours.status === "rejected" ? ours.reason : null;
    if (ourError !== null && this.#job.signal.aborted) throw ourError;
    // A link that breaks, or our giving up, is the echo of what happened in QEMU.
    const echo = ourError instanceof MigrationError && ECHOES.includes(ourError.code);
    if (theirs.status === "rejected")
      throw ourError === null || echo || isGone(theirs.reason) ? theirs.reason : ourError;
    const info = theirs.value;
    if (ours.status === "fulfilled" && info.status === "completed") return { result: ours.value, info };
    if (ourError !== null && !echo) throw ourError;
    const words = info.error ?? `its migration ended as "${info.status}", and it does not say why`;
    const remedy = this.#connected
      ? ""
      : `; it has to reach ${uri}: if it runs as another user or elsewhere, name an address that it can reach with --listen`;
    throw new ProtocolError("QEMU_MIGRATION_FAILED", `QEMU: ${words}${remedy}`, { cause: ourError });
  }

  async #watch(uri: string): Promise<MigrationInfo> {
    const { roundsMax, atRoundLimit } = this.#job;
    await this.#migration.start(uri);
    return await this.#migration.end({ roundsMax, atRoundLimit }, () =>
      this.#settings.setParameter("downtime-limit", DOWNTIME_MS_MAX),
    );
  }

  async #readBack(): Promise<void> {
    const saved = await this.#job.keeper.readBack(this.#job.signal);
    this.#checkCancelled();
    checkMachine(saved, this.#facts);
  }

  #checkCancelled(): void {
    if (this.#job.signal.aborted) throw new ChannelError("CANCELLED", "cancelled; nothing was kept");
  }

  async #giveBackSettings(): Promise<void> {
    try {
      await this.#settings.restore();
    } catch (error) {
      this.#job.onWarning(`the migration settings could not be given back: ${(error as Error).message}`);
    }
  }

  /** Makes everything as it was. @throws {MigrationError} RESUME_FAILED. */
  async #undo(reason: unknown): Promise<void> {
    await this.#job.keeper.discard();
    if (isGone(reason)) return;
    try {
      await this.#cancelAndWait();
    } catch (error) {
      this.#job.onWarning(`QEMU's migration could not be cancelled: ${(error as Error).message}`);
    }
    await this.#giveBackSettings();
    await this.#resumeIfItRan(reason);
  }

  async #cancelAndWait(): Promise<void> {
    const info = await queryMigration(this.#job.qmp);
    if (isOver(info) || info.status === "none") return;
    await this.#migration.cancel();
    await this.#migration.end({ roundsMax: Number.POSITIVE_INFINITY, atRoundLimit: "fail" }, async () => {});
  }

  async #resumeIfItRan(reason: unknown): Promise<void> {
    if (!this.#ranBefore) return;
    try {
      if ((await queryRunState(this.#job.qmp)) !== "running") await this.#job.qmp.execute("cont");
    } catch (cause) {
      if (isGone(cause)) return;
      const why = reason instanceof Error ? reason.message : String(reason);
      throw new ProtocolError(
        "RESUME_FAILED",
        `the guest stands still in QEMU: after "${why}" it could not be resumed: ${(cause as Error).message}`,
        { cause },
      );
    }
  }
}

/** Where QEMU finds a socket that listens on every interface. */
function reachable(address: Address): Address {
  if (address.kind !== "tcp" || !["", "0.0.0.0", "::"].includes(address.host)) return address;
  return { ...address, host: address.host === "::" ? "::1" : "127.0.0.1" };
}

function isGone(error: unknown): boolean {
  return error instanceof MigrationError && error.code === "QMP_CLOSED";
}
