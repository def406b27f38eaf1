/**
 * `multifd send`: a stopped VM, out of files, to a QEMU or multifd destination.
 *
 * Out of RAM files and a device part, or out of a snapshot. The files belong to
 * nobody while they are read: one round moves them. RAM blocks without a file of
 * their own come out of the device file. Where the destination
 * has mapped the very files, only what is not in them is sent.
 */
import { statSync } from "node:fs";
import type { Address } from "@multifd/channel";
import { type DevicePart, type MigrationResult, runSource, type SourceGuest, StoppedRam } from "@multifd/engine";
import { openSnapshot, QemuSourcePeer, readDeviceFile, storedGuest } from "@multifd/peer-qemu";
import { machineTypeVersion, SystemError } from "@multifd/protocol";
import { type Command, Option } from "commander";
import {
  addChannelFlags,
  addSpeedFlags,
  type ChannelFlags,
  CONNECT_TIMEOUT_MS,
  checkLevel,
  type SpeedFlags,
} from "../channel-flags.js";
import { addDialectFlags, type DialectFlags, dialectTerms, isDialectTold } from "../dialect-flags.js";
import type { OutputFlags } from "../event-output.js";
import { addOutputFlags, type MigrationWatch, runMigration } from "../migration-command.js";
import { address, ramFile } from "../option-values.js";
import type { CommandContext } from "../terminal.js";
import { addConnectTlsFlags, checkTlsFlags, connectTls } from "../tls-flags.js";

type SendFlags = ChannelFlags &
  SpeedFlags &
  DialectFlags &
  OutputFlags & {
    readonly ram?: ReadonlyMap<string, string>;
    readonly devices?: string;
    readonly from?: string;
    readonly ignoreShared?: true;
    readonly to: Address;
  };

const EXAMPLE = `
Example:
  multifd send --from vm.snapshot --to unix:/run/qemu.sock
  multifd send --ram pc.ram=/dev/shm/vm.ram --devices vm.devices --to tcp:10.0.0.2:4444 --channels 4 --compression zstd`;

export function addSendCommand(program: Command, context: CommandContext): void {
  const command = program
    .command("send")
    .summary("send a stopped VM, from a snapshot or its files, to a QEMU or multifd destination")
    .description("Sends the RAM of a stopped VM, and its devices, to a QEMU or multifd destination.")
    .addOption(
      new Option("--ram <block=path...>", "a RAM block, as the stream names it, and the file it lies in").argParser(
        ramFile,
      ),
    )
    .addOption(
      new Option("--from <path>", "a snapshot, mapped-ram (QEMU's or ours) or compressed").conflicts([
        "ram",
        "devices",
        "ignoreShared",
      ]),
    )
    .option("--devices <path>", "device part, as receive --devices wrote it (default: none, RAM only)")
    .addOption(new Option("--to <address>", "tcp:HOST:PORT or unix:PATH").argParser(address).makeOptionMandatory());
  command.option(
    "--ignore-shared",
    "the destination has mapped the very files of --ram (share=on, capability x-ignore-shared): send the rest only; " +
      "name several in the order of their NUMA nodes",
  );
  addConnectTlsFlags(addDialectFlags(addSpeedFlags(addChannelFlags(command))));
  addOutputFlags(command)
    .addHelpText("after", EXAMPLE)
    .action(async (flags: SendFlags) => {
      if (!flags.ram && flags.from === undefined) {
        command.error("error: name what is sent: --ram BLOCK=PATH and --devices PATH, or --from PATH");
      }
      checkLevel(command, flags);
      if (flags.ignoreShared && flags.devices === undefined)
        command.error("error: --ignore-shared leaves only the device part to send: name it with --devices PATH");
      if (flags.compression === "lz4" && !flags.returnPath)
        command.error(
          "error: --compression lz4 needs the destination's answer: leave --no-return-path out, or choose zstd",
        );
      checkTlsFlags(command);
      await send(context, flags);
    });
}

/** The page size where no device part names another. */
const PAGE_BYTES = 4096;

async function send(context: CommandContext, flags: SendFlags): Promise<void> {
  await runMigration(context, flags, async (watch) => {
    if (flags.from === undefined) return await sendFiles(context, flags, flags.ram ?? new Map(), watch);
    const snapshot = await openSnapshot(flags.from);
    try {
      return await sendGuest(context, flags, storedGuest(snapshot), snapshot.devices, watch);
    } finally {
      await snapshot.close();
    }
  });
}

function adviseOnDialect({ terminal }: CommandContext, flags: SendFlags, machineType: string): void {
  if (machineTypeVersion(machineType) !== null || isDialectTold(flags)) return;
  terminal.err(
    `machine type "${machineType}" bears no version and is taken for that of QEMU 10.0 or newer; ` +
      "to an older one name --sync, --zero-pages and --switchover-start\n",
  );
}

async function sendFiles(
  context: CommandContext,
  flags: SendFlags,
  ram: ReadonlyMap<string, string>,
  watch: MigrationWatch,
): Promise<MigrationResult> {
  const file = flags.devices === undefined ? null : await readDeviceFile(flags.devices, fileLengths(ram));
  const rest = file ?? { kept: [], blockNames: [] };
  const files = flags.ignoreShared ? "shared" : "sent";
  const guest = StoppedRam.open(ram, file?.pageBytes ?? PAGE_BYTES, rest, files);
  try {
    return await sendGuest(context, flags, guest, file?.devices ?? null, watch);
  } finally {
    guest.close();
  }
}

async function sendGuest(
  context: CommandContext,
  flags: SendFlags,
  guest: SourceGuest,
  devices: DevicePart | null,
  { onEvent, signal }: MigrationWatch,
): Promise<MigrationResult> {
  if (devices !== null) adviseOnDialect(context, flags, devices.machineType);
  return await runSource({
    guest,
    peer: new QemuSourcePeer({
      address: flags.to,
      channels: flags.channels,
      ...(flags.uuid && { uuid: flags.uuid }),
      connectTimeoutMs: CONNECT_TIMEOUT_MS,
      compression: flags.compression,
      ...dialectTerms(flags),
      ...connectTls(flags, flags.to),
    }),
    onEvent,
    signal,
    compression: flags.compression,
    level: flags.level,
    devices,
    maxBandwidth: flags.maxBandwidth,
    stallTimeoutMs: flags.stallTimeout,
    // One round, for nobody writes: nothing is left to converge.
    downtimeLimitMs: 0,
    roundsMax: 1,
    atRoundLimit: "switchover",
  });
}

function fileLengths(files: ReadonlyMap<string, string>): ReadonlyMap<string, number> {
  return new Map([...files].map(([block, path]) => [block, fileLength(block, path)]));
}

function fileLength(block: string, path: string): number {
  try {
    return statSync(path).size;
  } catch (cause) {
    const { code, message } = cause as NodeJS.ErrnoException;
    throw new SystemError(`SYSTEM_${code ?? "ERROR"}`, `RAM block "${block}": ${message}`, { cause });
  }
}
