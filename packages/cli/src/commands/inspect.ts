/**
 * `multifd inspect`: what is inside a snapshot, a device file or a recorded stream, down to each field.
 *
 * Reads the stream as a destination would; nothing is loaded. The result is the command's output and
 * goes to stdout, for people or as one JSON object. Exit status 0 says that every byte was
 * accounted for, or, with `--diff`, that nothing differs; 1 says that it was not so.
 */
import { statSync } from "node:fs";
import { ConfigError, type DecodedDevice, MigrationError, ProtocolError, type StateNode } from "@multifd/protocol";
import type { Command } from "commander";
import { differences } from "../inspect/difference.js";
import { differenceText } from "../inspect/difference-text.js";
import { type DirectoryInspection, inspectDirectory } from "../inspect/directory-inspection.js";
import { directoryJson } from "../inspect/directory-json.js";
import { directoryText } from "../inspect/directory-text.js";
import { inspectFile } from "../inspect/inspect-file.js";
import type { Inspection } from "../inspect/inspection.js";
import { deviceJson, inspectionJson } from "../inspect/inspection-json.js";
import { inspectionText } from "../inspect/inspection-text.js";
import type { Json } from "../inspect/json.js";
import { ramFile, wholeNumber } from "../option-values.js";
import type { CommandContext } from "../terminal.js";

type InspectFlags = {
  readonly json?: boolean;
  readonly diff?: boolean;
  readonly ram?: ReadonlyMap<string, string>;
  readonly device?: string;
  readonly depth: number;
};

const NO_RAM_FILES: ReadonlyMap<string, string> = new Map();
const DEPTH_DEFAULT = 64;

const EXAMPLE = `
Example:
  multifd inspect vm.devices --depth 0
  multifd inspect vm.devices --ram pc.ram=/dev/shm/vm.ram --device e1000
  multifd inspect --diff monday.devices tuesday.devices
  multifd inspect /var/lib/vm/snapshot --device _disk0

Exit status: 0 every byte is accounted for, or nothing differs; 1 otherwise; 2 wrong usage.`;

export function addInspectCommand(program: Command, context: CommandContext): void {
  program
    .command("inspect")
    .summary("show what is inside a snapshot, a device file or a recorded stream")
    .description(
      "Shows what a snapshot, a device file or a recorded stream holds: machine type, RAM blocks, and every device down to its fields; " +
        "of Cloud Hypervisor's snapshot directories, the VM's configuration, RAM ranges and components.",
    )
    .argument("<path>", "the file, or a snapshot directory of Cloud Hypervisor")
    .argument("[other]", "with --diff, the file to compare it with")
    .option("--diff", "show what differs between two files")
    .option("--ram <BLOCK=PATH>", "file of a RAM block, to look into it as well (repeatable)", ramFile)
    .option("--device <TEXT>", "only devices with this in their name")
    .option("--depth <N>", "levels of fields to show; 0 lists the devices alone", wholeNumber(0, 64), DEPTH_DEFAULT)
    .option("--json", "print one JSON object")
    .addHelpText("after", EXAMPLE)
    .action(async (path: string, other: string | undefined, flags: InspectFlags, command: Command) => {
      const isDiff = flags.diff === true;
      if (isDiff !== (other !== undefined)) command.error("error: --diff takes two files, and only --diff does");
      if (isDiff && flags.ram !== undefined) command.error("error: --diff does not compare RAM: leave --ram out");
      const report = new Report(context, flags);
      await report.run(() => (other === undefined ? report.show(path) : report.compare(path, other)));
    });
}

/** What could be read of a file. */
type Read = { readonly head: Record<string, Json>; readonly devices: readonly DecodedDevice[] };

class Report {
  readonly #context: CommandContext;
  readonly #flags: InspectFlags;

  constructor(context: CommandContext, flags: InspectFlags) {
    this.#context = context;
    this.#flags = flags;
  }

  async run(action: () => Promise<void>): Promise<void> {
    try {
      await action();
    } catch (error) {
      if (!(error instanceof MigrationError)) throw error;
      this.#fail(error, {});
    }
  }

  async show(path: string): Promise<void> {
    const { ram = NO_RAM_FILES, json, depth } = this.#flags;
    if (isDirectory(path)) return this.#showDirectory(await inspectDirectory(path));
    const inspection = await inspectFile(path, ram);
    const devices = this.#wanted(inspection);
    const failure = inspection.failure ?? unaccountedFailure(inspection);
    // A file that is no stream at all has nothing to be told of.
    if (!json && inspection.machineType !== "")
      for (const text of inspectionText(inspection, devices, depth)) this.#context.terminal.out(text);
    if (failure !== null) this.#fail(failure, { head: inspectionJson(inspection), devices });
    else if (json) this.#say({ event: "completed", ...inspectionJson(inspection) }, devices);
  }

  /** Its reader has refused whatever does not add up. */
  #showDirectory(inspection: DirectoryInspection): void {
    const { ram, json, device, depth } = this.#flags;
    const { path, tree } = inspection;
    if (ram !== undefined)
      throw new ConfigError("RAM_IN_SNAPSHOT", `${path} is a snapshot and has its RAM inside; leave --ram out`);
    const wanted = device === undefined ? tree : pruned(tree, device);
    if (wanted === null) {
      const known = componentNames(tree).join(", ");
      throw new ConfigError(
        "DEVICE_UNKNOWN",
        `${path} has no component with "${device}" in its name; there are ${known}`,
      );
    }
    if (json) this.#say({ event: "completed", ...directoryJson(inspection, wanted) });
    else for (const text of directoryText(inspection, wanted, depth)) this.#context.terminal.out(text);
  }

  async compare(path: string, other: string): Promise<void> {
    const [a, b] = [await inspectWhole(path), await inspectWhole(other)];
    const [left, right] = [this.#named(a), this.#named(b)];
    if (left.length + right.length === 0) this.#wanted(a);
    const found = differences({ ...a, devices: left }, { ...b, devices: right });
    if (found.length > 0) this.#context.exitCode = 1;
    if (!this.#flags.json) {
      this.#context.terminal.out(differenceText(found));
      return;
    }
    const told = found.map(({ what, path, a, b }) => ({ what, path, a: a?.json ?? null, b: b?.json ?? null }));
    this.#say({ event: "completed", a: path, b: other, same: found.length === 0, differences: told });
  }

  /** @throws {ConfigError} DEVICE_UNKNOWN, where none bears the name that was asked for. */
  #wanted(inspection: Inspection): readonly DecodedDevice[] {
    const { devices, failure, path } = inspection;
    const { device } = this.#flags;
    const wanted = this.#named(inspection);
    if (device === undefined || wanted.length > 0 || failure !== null) return wanted;
    const known = devices.map(({ name }) => name).join(", ") || "none";
    throw new ConfigError("DEVICE_UNKNOWN", `${path} has no device with "${device}" in its name; there are ${known}`);
  }

  #named({ devices }: Inspection): readonly DecodedDevice[] {
    const { device } = this.#flags;
    return device === undefined ? devices : devices.filter(({ name }) => name.includes(device));
  }

  /** @param read  What could be read all the same; goes with the failure. */
  #fail({ code, message }: MigrationError, read: Partial<Read>): void {
    this.#context.exitCode = 1;
    if (this.#flags.json) this.#say({ event: "failed", code, message, ...read.head }, read.devices);
    this.#context.terminal.err(`failed: ${message} [${code}]\n`);
  }

  /** One JSON object; its last member, the devices, comes piece by piece. */
  #say(head: Record<string, Json>, devices?: readonly DecodedDevice[]): void {
    const { out } = this.#context.terminal;
    const text = JSON.stringify(head);
    if (devices === undefined) {
      out(`${text}\n`);
      return;
    }
    out(`${text.slice(0, -1)},"devices":[`);
    for (const [i, device] of devices.entries()) out(`${i === 0 ? "" : ","}${JSON.stringify(deviceJson(device))}`);
    out("]}\n");
  }
}

function isDirectory(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false })?.isDirectory() ?? false;
}

/** The components that bear the text in their names, and those they belong to. */
function pruned(node: StateNode, text: string): StateNode | null {
  if (node.name.includes(text)) return node;
  const children = node.children.map((child) => pruned(child, text)).filter((child) => child !== null);
  return children.length === 0 ? null : { name: node.name, children, data: [] };
}

function componentNames({ name, children }: StateNode): string[] {
  return [name, ...children.flatMap(componentNames)];
}

async function inspectWhole(path: string): Promise<Inspection> {
  if (isDirectory(path))
    throw new ConfigError("DIFF_DIRECTORY", `${path} is a directory; --diff compares files of QEMU's`);
  const inspection = await inspectFile(path, NO_RAM_FILES);
  if (inspection.failure !== null) throw inspection.failure;
  return inspection;
}

function unaccountedFailure({ path, unaccounted }: Inspection): MigrationError | null {
  const [first] = unaccounted;
  if (first === undefined) return null;
  const bytes = unaccounted.reduce((sum, { lengthBytes }) => sum + lengthBytes, 0);
  const message = `${path}: ${bytes} bytes are not accounted for, the first at byte ${first.at}: ${first.reason}`;
  return new ProtocolError("BYTES_UNACCOUNTED", message);
}
