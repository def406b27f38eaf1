/**
 * Migration info: what `query-migrate` says, at either end.
 *
 * Source: QEMU 11.1, qapi/migration.json, MigrationInfo; 7.2 tells less of it.
 */
import { type QmpObject, toCount, toCountOrZero, toObject, toText } from "./qmp-answer.js";

export type MigrationInfo = {
  /** `none` where QEMU says nothing: there has been no migration. */
  readonly status: string;
  /** QEMU's own words for a failure; null where it has none. */
  readonly error: string | null;
  /** Why this VM cannot migrate at all. */
  readonly blockedReasons: readonly string[];
  /** A destination that listens already: its channels can no longer be set. */
  readonly listening: boolean;
  /** RAM in all blocks; 0 before a migration. */
  readonly ramBytes: number;
  readonly remainingBytes: number;
  readonly pageBytes: number;
  readonly normalPages: number;
  readonly zeroPages: number;
  /** Passes over the dirty bitmap so far. */
  readonly passes: number;
  /** Null until it is over. */
  readonly downtimeMs: number | null;
  /** Null while QEMU does not know. */
  readonly expectedDowntimeMs: number | null;
};

const COMMAND = "query-migrate";
/** QEMU 11.1 says 2^63 - 1 where it does not know. */
const KNOWN_MS_MAX = Number.MAX_SAFE_INTEGER;
const OVER = ["completed", "failed", "cancelled"];
const UNDER_WAY = ["setup", "active", "pre-switchover", "device", "cancelling", "wait-unplug", "colo"];

/** @throws {ProtocolError} QMP_MALFORMED. */
export function readMigrationInfo(answer: unknown): MigrationInfo {
  const info = toObject(answer, COMMAND);
  const { status, downtime, "expected-downtime": expected, "error-desc": error, "blocked-reasons": reasons } = info;
  const ram = toObject({ ram: {}, ...info }.ram, COMMAND);
  const count = (from: QmpObject, field: string) => toCountOrZero(from[field], COMMAND);
  return {
    status: status === undefined ? "none" : toText(status, COMMAND),
    error: error === undefined ? null : toText(error, COMMAND),
    blockedReasons: Array.isArray(reasons) ? reasons.map(String) : [],
    listening: info["socket-address"] !== undefined,
    ramBytes: count(ram, "total"),
    remainingBytes: count(ram, "remaining"),
    pageBytes: count(ram, "page-size"),
    normalPages: count(ram, "normal"),
    zeroPages: count(ram, "duplicate"),
    passes: count(ram, "dirty-sync-count"),
    downtimeMs: downtime === undefined ? null : toCount(downtime, COMMAND),
    expectedDowntimeMs: typeof expected === "number" && expected <= KNOWN_MS_MAX ? expected : null,
  };
}

export function isOver(info: MigrationInfo): boolean {
  return OVER.includes(info.status);
}

export function isUnderWay(info: MigrationInfo): boolean {
  return UNDER_WAY.includes(info.status) || info.status.startsWith("postcopy-");
}
