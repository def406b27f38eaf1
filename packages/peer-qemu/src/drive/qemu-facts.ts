/**
 * QEMU facts: what a QEMU is and has, as far as a migration depends on it.
 *
 * Asked once, before anything is changed. RAM blocks come from the monitor's `info
 * ramblock`, the only place where QEMU tells their names as the stream has them;
 * it lists blocks that do not migrate too (device RAM, mapped BARs), so a stream's
 * list may be shorter than a QEMU's.
 *
 * Source: QEMU 7.2 and 11.1, qapi/*.json; system/physmem.c, ram_block_format().
 */
import { ProtocolError, parseUuid } from "@multifd/protocol";
import type { QmpClient } from "../qmp-client.js";
import { type MigrationInfo, readMigrationInfo } from "./migration-info.js";
import { toCount, toList, toObject, toText } from "./qmp-answer.js";

export type QemuRamBlock = {
  readonly name: string;
  /** What a stream lists. */
  readonly usedBytes: number;
  /** More than `usedBytes` where the block can grow, as ACPI tables do. */
  readonly maxBytes: number;
};

export type QemuFacts = {
  /** As QEMU writes it: `11.1.2`. */
  readonly version: string;
  readonly release: { readonly major: number; readonly minor: number };
  /** Target architecture: `x86_64`. */
  readonly target: string;
  /** Versioned, whatever alias it was started with: `pc-i440fx-7.2`. */
  readonly machineType: string;
  /** Zeros where QEMU was given none. */
  readonly uuid: Uint8Array;
  /** `running`, `paused`, `inmigrate`, … */
  readonly runState: string;
  readonly ramBlocks: readonly QemuRamBlock[];
  readonly migration: MigrationInfo;
};

/** @throws {MigrationError} what the socket or QEMU's answers say. */
export async function queryQemu(qmp: QmpClient): Promise<QemuFacts> {
  const { qemu } = toObject(await qmp.execute("query-version"), "query-version");
  const { major, minor, micro } = toObject(qemu, "query-version");
  const release = { major: toCount(major, "query-version"), minor: toCount(minor, "query-version") };
  const { arch } = toObject(await qmp.execute("query-target"), "query-target");
  const { UUID: uuid } = toObject(await qmp.execute("query-uuid"), "query-uuid");
  const machine = await qmp.execute("qom-get", { path: "/machine", property: "type" });
  const blocks = await qmp.execute("human-monitor-command", { "command-line": "info ramblock" });
  return {
    version: `${release.major}.${release.minor}.${toCount(micro, "query-version")}`,
    release,
    target: toText(arch, "query-target"),
    machineType: toText(machine, "qom-get /machine type").replace(/-machine$/, ""),
    uuid: parseUuid(toText(uuid, "query-uuid")),
    runState: await queryRunState(qmp),
    ramBlocks: parseRamBlocks(toText(blocks, "info ramblock")),
    migration: await queryMigration(qmp),
  };
}

export async function queryRunState(qmp: QmpClient): Promise<string> {
  const { status } = toObject(await qmp.execute("query-status"), "query-status");
  return toText(status, "query-status");
}

export async function queryMigration(qmp: QmpClient): Promise<MigrationInfo> {
  return readMigrationInfo(await qmp.execute("query-migrate"));
}

/** Versioned names of the machine types that this QEMU has; aliases (`pc`, `q35`) are left out. */
export async function queryMachineTypes(qmp: QmpClient): Promise<readonly string[]> {
  const machines = toList(await qmp.execute("query-machines"), "query-machines");
  return machines.map(({ name }) => toText(name, "query-machines"));
}

/** Source: name, page size with its unit, then offset, used and maximum length in hexadecimal; newer ones add to that. */
const RAM_BLOCK_LINE = /^\s*(\S.*?)?\s+\d+ \S+\s+0x[0-9a-f]+\s+0x([0-9a-f]+)\s+0x([0-9a-f]+)/;

function parseRamBlocks(text: string): readonly QemuRamBlock[] {
  const lines = text.split(/\r?\n/).filter((line) => line.trim() !== "");
  const blocks = lines.slice(1).flatMap((line) => {
    const match = RAM_BLOCK_LINE.exec(line);
    if (match && match[1] === undefined) return []; // a memory backend that nothing uses
    if (match) {
      return { name: match[1]!, usedBytes: Number.parseInt(match[2]!, 16), maxBytes: Number.parseInt(match[3]!, 16) };
    }
    throw new ProtocolError(
      "QMP_MALFORMED",
      `QMP: "info ramblock" has the line "${line.trim().slice(0, 120)}", which tells no RAM block`,
    );
  });
  if (blocks.length > 0) return blocks;
  throw new ProtocolError("QMP_MALFORMED", `QMP: "info ramblock" lists nothing: "${text.slice(0, 120)}"`);
}
