/**
 * Outgoing migration: QEMU's `migrate`, watched to its end.
 *
 * QEMU's answer to `query-migrate` is the truth; events only make us ask at once.
 * While the guest runs, each pass over its RAM that we see is told as a round, with what
 * is left of it by then; a guest that
 * outruns the link is given up, or stopped, after as many as were allowed. Once
 * nobody is left at our side QEMU has a bounded time to say how it ended.
 *
 * Source: QEMU 11.1, migration/migration.c, migrate_fd_cleanup().
 */
import type { EventSink } from "@multifd/engine";
import { ChannelError, ProtocolError } from "@multifd/protocol";
import type { QmpClient } from "../qmp-client.js";
import { isOver, type MigrationInfo } from "./migration-info.js";
import { queryMigration } from "./qemu-facts.js";

export type Patience = {
  /** Passes while the guest runs. */
  readonly roundsMax: number;
  /** What to do when the guest has outrun the link for that long: `switchover` calls `stopSoon`. */
  readonly atRoundLimit: "fail" | "switchover";
};

/** Between two looks, if no event says that there is something to see. */
const LOOK_MS = 200;
/** From our side's end until QEMU's. It cleans its threads up, and a destination's refusal takes it a moment. */
const END_MS = 20_000;

export class OutgoingMigration {
  readonly #qmp: QmpClient;
  readonly #onEvent: EventSink;
  #deadlineMs = Number.POSITIVE_INFINITY;
  #passes = 0;

  constructor(qmp: QmpClient, onEvent: EventSink) {
    this.#qmp = qmp;
    this.#onEvent = onEvent;
  }

  /** Starts it. @throws {ProtocolError} QMP_COMMAND_FAILED, with QEMU's reason. */
  async start(uri: string): Promise<void> {
    await this.#qmp.execute("migrate", { uri });
  }

  /**
   * Waits for the end: completed, failed or cancelled.
   *
   * @param stopSoon  Makes QEMU stop the guest at the next occasion.
   * @throws {ProtocolError} WILL_NOT_CONVERGE, with the migration still under way; {ChannelError} QEMU_SILENT,
   *   QMP_CLOSED.
   */
  async end(patience: Patience, stopSoon: () => Promise<void>): Promise<MigrationInfo> {
    for (;;) {
      const info = await queryMigration(this.#qmp);
      if (isOver(info)) return info;
      await this.#judge(info, patience, stopSoon);
      if (performance.now() > this.#deadlineMs) {
        throw new ChannelError(
          "QEMU_SILENT",
          `QEMU's migration is still "${info.status}", ${END_MS} ms after our side ended; look at its monitor`,
        );
      }
      await this.#newsOrTime();
    }
  }

  /** Nobody is left at our side: from now on QEMU's end is due. */
  expectEnd(): void {
    this.#deadlineMs = Math.min(this.#deadlineMs, performance.now() + END_MS);
  }

  /** Has QEMU cancel; what has ended stays as it ended. */
  async cancel(): Promise<void> {
    this.expectEnd();
    await this.#qmp.execute("migrate_cancel");
  }

  async #judge(info: MigrationInfo, patience: Patience, stopSoon: () => Promise<void>): Promise<void> {
    if (info.status !== "active" || info.passes === this.#passes) return;
    this.#passes = info.passes;
    const dirtyPages = info.pageBytes === 0 ? 0 : Math.ceil(info.remainingBytes / info.pageBytes);
    // What is left, for QEMU tells no more. Of a pass that was over before we looked that is nothing, and says nothing.
    if (dirtyPages > 0)
      this.#onEvent({ event: "round", round: info.passes, dirtyPages, dirtyBytes: info.remainingBytes });
    if (info.passes <= patience.roundsMax) return;
    if (patience.atRoundLimit === "switchover") return stopSoon();
    const downtime = info.expectedDowntimeMs === null ? "unknown" : `about ${info.expectedDowntimeMs} ms`;
    throw new ProtocolError(
      "WILL_NOT_CONVERGE",
      `the guest writes faster than its RAM is saved: after ${patience.roundsMax} rounds ${info.remainingBytes} bytes are left (expected downtime: ${downtime}); allow a longer downtime, or stop the VM`,
    );
  }

  async #newsOrTime(): Promise<void> {
    try {
      await this.#qmp.waitForEvent("MIGRATION", () => true, LOOK_MS);
    } catch (error) {
      if (!(error instanceof ChannelError) || error.code !== "QMP_TIMEOUT") throw error;
    }
  }
}
