/**
 * `multifd qemu snapshot`: a running QEMU's guest into a snapshot file, with hardly a pause.
 *
 * RAM is read from its shared files while the guest runs; it is stopped for what it wrote last, and goes on
 * before the file is on disk. QEMU restores the file, as one of `qemu save`.
 */
import { snapshotQemu } from "@multifd/peer-qemu";
import { type Command, Option } from "commander";
import {
  addDowntimeLimit,
  addRoundLimit,
  addSaveFlags,
  type ConvergenceFlags,
  type SaveFlags,
} from "../channel-flags.js";
import type { OutputFlags } from "../event-output.js";
import { addOutputFlags, runMigration } from "../migration-command.js";
import { processId } from "../option-values.js";
import { addQmpFlag, driveQemu } from "../qemu-driving.js";
import { addSnapshotFlags, type SnapshotFlags } from "../snapshot-flags.js";
import { keepInSnapshot } from "../snapshot-keeper.js";
import type { CommandContext } from "../terminal.js";

type QemuSnapshotFlags = SaveFlags &
  ConvergenceFlags &
  SnapshotFlags &
  OutputFlags & {
    readonly qmp: string;
    readonly pid?: number;
    readonly out: string;
  };

const EXAMPLE = `
Example:
  multifd qemu snapshot --qmp /run/vm.qmp --out vm.snapshot`;

export function addQemuSnapshotCommand(group: Command, context: CommandContext): void {
  const command = group
    .command("snapshot")
    .summary("save a running QEMU's guest into a snapshot file while it runs on")
    .description(
      "Saves the guest of a running QEMU into a snapshot file, and verifies it; the guest stands still for its last " +
        "writes only, and goes on in any case. Its RAM has to be in shared files (memory-backend-file with share=on). " +
        "Disks are not in it.",
    );
  addQmpFlag(command)
    .addOption(
      new Option(
        "--pid <n>",
        "QEMU's process (default: as QEMU says itself), seen from this process namespace",
      ).argParser(processId),
    )
    .addOption(new Option("--out <path>", "the snapshot file, which must not exist yet").makeOptionMandatory());
  addSnapshotFlags(command, "mapped-ram");
  addRoundLimit(addDowntimeLimit(addSaveFlags(command)));
  addOutputFlags(command)
    .addHelpText("after", EXAMPLE)
    .action(async (flags: QemuSnapshotFlags) => {
      await snapshot(context, flags);
    });
}

async function snapshot(context: CommandContext, flags: QemuSnapshotFlags): Promise<void> {
  await runMigration(context, flags, ({ onEvent, signal, warn }) =>
    driveQemu({ qmp: flags.qmp }, (qmp, meeting) =>
      snapshotQemu({
        qmp,
        ...(flags.pid !== undefined && { pid: flags.pid }),
        keeper: keepInSnapshot(flags.out, flags.form ?? "mapped-ram", flags.formLevel),
        meeting,
        threads: flags.channels,
        downtimeLimitMs: flags.downtimeLimit,
        maxBandwidth: flags.maxBandwidth,
        roundsMax: flags.roundsMax,
        atRoundLimit: flags.atRoundLimit,
        stallTimeoutMs: flags.stallTimeout,
        onEvent,
        onWarning: warn,
        signal,
      }),
    ),
  );
}
