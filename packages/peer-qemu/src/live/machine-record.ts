/**
 * Machine record: what a source QEMU is, told to the destination before RAM moves.
 *
 * JSON in one device state, the first that goes down a channel. The destination holds it
 * against its own QEMU; what QEMU itself would find out in the midst of the downtime,
 * or never, is refused here in words. What came is hostile until checked.
 */
import { type DeviceStateProvider, provideDeviceState } from "@multifd/engine";
import { ConfigError, ProtocolError } from "@multifd/protocol";
import { compareMachines } from "../drive/preflight.js";
import type { QemuFacts } from "../drive/qemu-facts.js";
import { toCount, toList, toObject, toText } from "../drive/qmp-answer.js";
import type { QmpClient } from "../qmp-client.js";
import { readRunningLine } from "../start/running-line.js";
import type { SharedRam } from "./shared-ram.js";

/** Its name as a device's state, at both ends. */
export const MACHINE_RECORD = { idstr: "multifd/qemu-machine", instanceId: 0 } as const;
export const MACHINE_RECORD_BYTES_MAX = 2 ** 20;
const WHAT = "the source's machine";
const FORM = 1;
const ENTRIES_MAX = 4096;
const LINE_CHARACTERS_MAX = 2 ** 17;

export type MachineRecord = {
  readonly form: number;
  readonly version: string;
  readonly target: string;
  readonly machineType: string;
  /** Whether the guest ran when this began, and so is to run at the destination. */
  readonly running: boolean;
  readonly blocks: readonly { readonly name: string; readonly lengthBytes: number }[];
  /** Names of the blocks that we move; QEMU moves the others with its devices. */
  readonly shared: readonly string[];
  readonly processors: readonly string[];
  /** One line per PCI function: place and identity. */
  readonly pci: readonly string[];
  /** One line per drive: name and size. */
  readonly drives: readonly string[];
  /** With what QEMU was started, for a destination that is to start one like it; empty where it cannot be told. */
  readonly commandLine: readonly string[];
  /** Whether it has the preload library. */
  readonly preloaded: boolean;
};

/** Asks a QEMU for its record. */
export async function takeMachineRecord(qmp: QmpClient, facts: QemuFacts, ram: SharedRam): Promise<MachineRecord> {
  return {
    form: FORM,
    version: facts.version,
    target: facts.target,
    machineType: facts.machineType,
    running: facts.runState === "running",
    blocks: facts.ramBlocks.map(({ name, usedBytes }) => ({ name, lengthBytes: usedBytes })),
    shared: ram.blocks.map(({ block }) => block.name),
    processors: await queryProcessors(qmp),
    pci: await queryPci(qmp),
    drives: await queryDrives(qmp),
    ...tellLine(ram.pid),
  };
}

/** No migration needs it: one that cannot be told is left out. */
function tellLine(pid: number): Pick<MachineRecord, "commandLine" | "preloaded"> {
  try {
    const { words, preloaded } = readRunningLine(pid);
    const characters = words.reduce((sum, word) => sum + word.length, 0);
    if (words.length <= ENTRIES_MAX && characters <= LINE_CHARACTERS_MAX) return { commandLine: words, preloaded };
  } catch {
    // Another user's process, and we are not root.
  }
  return { commandLine: [], preloaded: false };
}

async function queryProcessors(qmp: QmpClient): Promise<readonly string[]> {
  const cpus = toList(await qmp.execute("query-cpus-fast"), "query-cpus-fast");
  return cpus.map((cpu) => JSON.stringify(cpu["props"] ?? cpu["cpu-index"]));
}

async function queryPci(qmp: QmpClient): Promise<readonly string[]> {
  const buses = toList(await qmp.execute("query-pci"), "query-pci");
  return buses.flatMap((bus) => describeBus(bus, "")).sort();
}

function describeBus(bus: Readonly<Record<string, unknown>>, below: string): readonly string[] {
  return toList(bus["devices"] ?? [], "query-pci").flatMap((device) => {
    const { slot, function: number, id, pci_bridge: bridge } = device;
    const { vendor, device: model } = toObject(id, "query-pci");
    const place = `${below}${toCount(slot, "query-pci")}.${toCount(number, "query-pci")}`;
    const hex = (value: unknown) => toCount(value, "query-pci").toString(16).padStart(4, "0");
    const behind = bridge === undefined ? [] : describeBus(toObject(bridge, "query-pci"), `${place}/`);
    return [`${place} ${hex(vendor)}:${hex(model)}`, ...behind];
  });
}

async function queryDrives(qmp: QmpClient): Promise<readonly string[]> {
  const drives = toList(await qmp.execute("query-block"), "query-block");
  return drives
    .map(({ device, qdev, inserted }) => {
      const { image } = toObject(inserted ?? {}, "query-block");
      const { "virtual-size": bytes } = toObject(image ?? {}, "query-block");
      return `${device === "" ? qdev : device} ${bytes ?? "empty"}`;
    })
    .sort();
}

export function encodeMachineRecord(record: MachineRecord): DeviceStateProvider {
  return provideDeviceState(MACHINE_RECORD, Buffer.from(JSON.stringify(record)));
}

/** @throws {ProtocolError} MACHINE_RECORD. */
export function decodeMachineRecord(bytes: Uint8Array): MachineRecord {
  try {
    const record = toObject(JSON.parse(Buffer.from(bytes).toString("utf8")), WHAT);
    const text = (field: string) => toText(record[field], WHAT);
    if (record["form"] !== FORM) throw new Error(`form ${String(record["form"])} came, ${FORM} was due`);
    const lines = (field: string) => list(record[field], field).map((line) => toText(line, WHAT));
    return {
      form: FORM,
      version: text("version"),
      target: text("target"),
      machineType: text("machineType"),
      running: record["running"] === true,
      blocks: toList(list(record["blocks"], "blocks"), WHAT).map(({ name, lengthBytes }) => ({
        name: toText(name, WHAT),
        lengthBytes: toCount(lengthBytes, WHAT),
      })),
      shared: lines("shared"),
      processors: lines("processors"),
      pci: lines("pci"),
      drives: lines("drives"),
      commandLine: record["commandLine"] === undefined ? [] : lines("commandLine"),
      preloaded: record["preloaded"] === true,
    };
  } catch (cause) {
    throw new ProtocolError(
      "MACHINE_RECORD",
      `what the source tells of its machine cannot be read (${(cause as Error).message}); use the same version of multifd on both sides`,
      { cause },
    );
  }
}

function list(value: unknown, field: string): readonly unknown[] {
  if (Array.isArray(value) && value.length <= ENTRIES_MAX) return value;
  throw new Error(`"${field}" is no list of up to ${ENTRIES_MAX}`);
}

/**
 * Holds a source's record against this side's.
 *
 * @returns What does not hinder and yet looks wrong.
 * @throws {ConfigError} what does; the message names both sides.
 */
export function compareRecords(
  came: MachineRecord,
  own: MachineRecord,
  facts: QemuFacts,
  machineTypes: readonly string[],
): readonly string[] {
  if (came.target !== own.target) {
    throw new ConfigError("TARGET_MISMATCH", `the guest is a ${came.target} machine, this QEMU a ${own.target}`);
  }
  const warnings = [...compareMachines(came, facts, machineTypes)];
  const unshared = came.shared.filter((name) => !own.shared.includes(name));
  if (unshared.length > 0) {
    throw new ConfigError(
      "RAM_PRIVATE",
      `RAM block ${unshared.map((name) => `"${name}"`).join(", ")} is shared at the source and not here; start this QEMU with memory-backend-file and share=on for it, as the source is`,
    );
  }
  compareLines("PROCESSOR_MISMATCH", "processors", came.processors, own.processors);
  compareLines("DEVICE_MISMATCH", "PCI devices", came.pci, own.pci);
  compareLines("DRIVE_MISMATCH", "drives", came.drives, own.drives);
  if (isOlder(own.version, came.version)) {
    warnings.push(`the source is QEMU ${came.version}, this one ${own.version}: an older QEMU may not know all of it`);
  }
  return warnings;
}

function compareLines(code: string, what: string, came: readonly string[], own: readonly string[]): void {
  const missing = came.filter((line) => !own.includes(line));
  const extra = own.filter((line) => !came.includes(line));
  if (missing.length === 0 && extra.length === 0 && came.length === own.length) return;
  const show = (lines: readonly string[]) => (lines.length === 0 ? "no other" : lines.slice(0, 8).join(", "));
  throw new ConfigError(
    code,
    `the ${what} differ: only the source has ${show(missing)}, only this QEMU has ${show(extra)}; start it with the same devices in the same places`,
  );
}

function isOlder(a: string, b: string): boolean {
  const [x = [], y = []] = [a, b].map((version) => version.split(".").map(Number));
  const at = [0, 1].find((index) => (x[index] ?? 0) !== (y[index] ?? 0));
  return at !== undefined && (x[at] ?? 0) < (y[at] ?? 0);
}
