/**
 * `multifd inspect`: what is inside a device file or a recorded main channel.
 *
 * Reads the stream as a destination would, every byte accounted for, so a file
 * that passes is whole; nothing is loaded. The result is the command's output and
 * goes to stdout, for people or as one JSON object.
 */
import { createReadStream } from "node:fs";
import {
  ChunkSource,
  type DeviceSection,
  decodeMainStream,
  formatUuid,
  type MainEvent,
  MigrationError,
  parseVmDescription,
  placeError,
  SystemError,
  walkDeviceSections,
} from "@multifd/protocol";
import type { Command } from "commander";
import { formatBytes } from "../quantities.js";
import type { CommandContext } from "../terminal.js";

type Inspection = {
  machineType: string;
  pageBytes: number;
  capabilities: readonly string[];
  uuid: string | null;
  blocks: { name: string; lengthBytes: number; pages: number; zeroPages: number }[];
  commands: string[];
  flushes: number;
  sections: readonly DeviceSection[];
  deviceBytes: number;
};

const EXAMPLE = `
Example:
  multifd inspect vm.devices`;

export function addInspectCommand(program: Command, context: CommandContext): void {
  program
    .command("inspect")
    .summary("show what is inside a device file or a recorded main channel")
    .description("Shows machine type, RAM blocks and device sections of a device file or a recorded main channel.")
    .argument("<path>", "the file")
    .option("--json", "print one JSON object")
    .addHelpText("after", EXAMPLE)
    .action(async (path: string, flags: { readonly json?: boolean }) => {
      const { terminal } = context;
      try {
        const inspection = await inspectFile(path);
        terminal.out(flags.json ? `${JSON.stringify(inspection)}\n` : describe(inspection));
      } catch (error) {
        if (!(error instanceof MigrationError)) throw error;
        context.exitCode = 1;
        if (flags.json)
          terminal.out(`${JSON.stringify({ event: "failed", code: error.code, message: error.message })}\n`);
        terminal.err(`failed: ${error.message} [${error.code}]\n`);
      }
    });
}

/**
 * Reads a whole stream.
 *
 * @throws {MigrationError} where it is not whole, naming the byte; {SystemError} where the file cannot be read.
 */
export async function inspectFile(path: string): Promise<Inspection> {
  const inspection: Inspection = {
    machineType: "",
    pageBytes: 0,
    capabilities: [],
    uuid: null,
    blocks: [],
    commands: [],
    flushes: 0,
    sections: [],
    deviceBytes: 0,
  };
  try {
    for await (const event of decodeMainStream(new ChunkSource(createReadStream(path)))) note(inspection, event);
  } catch (cause) {
    if (cause instanceof MigrationError) throw placeError(cause, path);
    const { code, message } = cause as NodeJS.ErrnoException;
    if (code === undefined) throw cause;
    throw new SystemError(`SYSTEM_${code}`, `${path}: ${message}`, { cause });
  }
  return inspection;
}

function note(inspection: Inspection, event: MainEvent): void {
  const block = (name: string) => inspection.blocks.find((known) => known.name === name)!;
  switch (event.kind) {
    case "configuration":
      inspection.machineType = event.machineType;
      inspection.pageBytes = event.pageBytes;
      inspection.capabilities = event.capabilities;
      inspection.uuid = event.uuid && formatUuid(event.uuid);
      break;
    case "ram-blocks":
      inspection.blocks = event.blocks.map(({ name, lengthBytes }) => ({ name, lengthBytes, pages: 0, zeroPages: 0 }));
      break;
    case "zero-pages":
      block(event.block).zeroPages += event.pages.length;
      break;
    case "page":
      block(event.block).pages++;
      break;
    case "command":
      inspection.commands.push(event.name);
      break;
    case "flush":
      inspection.flushes++;
      break;
    case "section-end":
      break;
    case "devices":
      inspection.sections = walkDeviceSections(event.bytes, parseVmDescription(event.description)).sections;
      inspection.deviceBytes = event.bytes.length;
      break;
  }
}

function describe(inspection: Inspection): string {
  const { blocks, sections } = inspection;
  const lines = [
    `machine type   ${inspection.machineType}`,
    `page size      ${inspection.pageBytes} bytes`,
    `capabilities   ${inspection.capabilities.join(", ") || "none"}`,
    `UUID           ${inspection.uuid ?? "not sent"}`,
    `commands       ${inspection.commands.join(", ") || "none"}`,
    "",
    `${blocks.length} RAM blocks`,
    ...table(
      ["name", "size", "pages here", "zero pages here"],
      blocks.map(({ name, lengthBytes, pages, zeroPages }) => [
        name,
        formatBytes(lengthBytes),
        `${pages}`,
        `${zeroPages}`,
      ]),
    ),
    "",
    `${sections.length} device sections, ${formatBytes(inspection.deviceBytes)} with their description`,
    ...table(
      ["name", "instance", "version", "bytes"],
      sections.map(({ name, instanceId, version, lengthBytes }) => [
        name,
        `${instanceId}`,
        `${version}`,
        `${lengthBytes}`,
      ]),
    ),
  ];
  return `${lines.join("\n")}\n`;
}

/** Columns as wide as their widest cell: the first to the left, numbers to the right. */
function table(heads: readonly string[], rows: readonly (readonly string[])[]): string[] {
  if (rows.length === 0) return [];
  const all = [heads, ...rows];
  const widths = heads.map((_, column) => Math.max(...all.map((row) => row[column]!.length)));
  return all.map((row) =>
    row
      .map((cell, column) => (column === 0 ? `  ${cell.padEnd(widths[0]!)}` : cell.padStart(widths[column]! + 2)))
      .join(""),
  );
}
