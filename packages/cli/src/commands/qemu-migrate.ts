/**
 * `multifd qemu migrate`: a running QEMU's guest to a QEMU behind `multifd qemu incoming`, live.
 *
 * QEMU needs no option for it but RAM in a shared file. Whatever fails before the guest
 * runs at the destination, it goes on here, and nothing of us stays in QEMU.
 */
import type { Address } from "@multifd/channel";
import { migrateQemu } from "@multifd/peer-qemu";
import { type Command, Option } from "commander";
import {
  addDowntimeLimit,
  addRoundLimit,
  addSharedChannelFlags,
  addSpeedFlags,
  CONNECT_TIMEOUT_MS,
  type ConvergenceFlags,
  checkLevel,
  type SharedChannelFlags,
  type SpeedFlags,
} from "../channel-flags.js";
import type { OutputFlags } from "../event-output.js";
import { addOutputFlags, runMigration } from "../migration-command.js";
import { address, processId } from "../option-values.js";
import { addQmpFlag, driveQemu } from "../qemu-driving.js";
import type { CommandContext } from "../terminal.js";
import { addConnectTlsFlags, checkTlsFlags, connectTls } from "../tls-flags.js";

type QemuMigrateFlags = SharedChannelFlags &
  SpeedFlags &
  ConvergenceFlags &
  OutputFlags & {
    readonly qmp: string;
    readonly pid?: number;
    readonly to: Address;
    readonly then: "pause" | "quit";
  };

const EXAMPLE = `
Example:
  multifd qemu migrate --qmp /run/vm.qmp --to tcp:10.0.0.2:4444 --channels 4 --compression zstd --then quit`;

export function addQemuMigrateCommand(group: Command, context: CommandContext): void {
  const command = group
    .command("migrate")
    .summary("migrate a running QEMU's guest, live, by our own data plane")
    .description(
      "Migrates the guest of a running QEMU to one behind `multifd qemu incoming`. Its RAM has to be in shared files " +
        "(memory-backend-file with share=on). After any failure the guest goes on here.",
    );
  addQmpFlag(command)
    .addOption(
      new Option(
        "--pid <n>",
        "QEMU's process (default: as QEMU says itself), seen from this process namespace",
      ).argParser(processId),
    )
    .addOption(new Option("--to <address>", "tcp:HOST:PORT or unix:PATH").argParser(address).makeOptionMandatory())
    .addOption(
      new Option("--then <what>", "what becomes of this QEMU when its guest runs at the destination")
        .choices(["pause", "quit"])
        .default("pause"),
    );
  addConnectTlsFlags(addRoundLimit(addDowntimeLimit(addSpeedFlags(addSharedChannelFlags(command)))));
  addOutputFlags(command)
    .addHelpText("after", EXAMPLE)
    .action(async (flags: QemuMigrateFlags) => {
      checkLevel(command, flags);
      checkTlsFlags(command);
      await migrate(context, flags);
    });
}

async function migrate(context: CommandContext, flags: QemuMigrateFlags): Promise<void> {
  await runMigration(context, flags, ({ onEvent, signal, warn }) =>
    driveQemu({ qmp: flags.qmp }, (qmp, meeting) =>
      migrateQemu({
        qmp,
        ...(flags.pid !== undefined && { pid: flags.pid }),
        to: {
          address: flags.to,
          channels: flags.channels,
          connectTimeoutMs: CONNECT_TIMEOUT_MS,
          ...connectTls(flags, flags.to),
        },
        meeting,
        compression: flags.compression,
        level: flags.level,
        downtimeLimitMs: flags.downtimeLimit,
        maxBandwidth: flags.maxBandwidth,
        roundsMax: flags.roundsMax,
        atRoundLimit: flags.atRoundLimit,
        stallTimeoutMs: flags.stallTimeout,
        afterwards: flags.then,
        onEvent,
        onWarning: warn,
        signal,
      }),
    ),
  );
}
