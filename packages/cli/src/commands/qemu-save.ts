/**
 * `multifd qemu save`: the guest of a running QEMU into a snapshot file.
 *
 * The VM stands still afterwards unless it is asked to go on: a guest that goes on
 * writes to its disks, and the saved RAM no longer fits them. One that will stand still anyway
 * need not converge: it is stopped as soon as its RAM has begun to move.
 */
import { saveVm } from "@multifd/peer-qemu";
import { type Command, Option } from "commander";
import { addRoundLimit, type ConvergenceFlags, checkLevel } from "../channel-flags.js";
import { runMigration } from "../migration-command.js";
import { milliseconds } from "../option-values.js";
import { addDrivingFlags, addQmpFlag, type DrivingFlags, driveQemu } from "../qemu-driving.js";
import { addSnapshotFlags, type SnapshotFlags } from "../snapshot-flags.js";
import { keepInSnapshot } from "../snapshot-keeper.js";
import type { CommandContext } from "../terminal.js";

type SaveFlags = DrivingFlags &
  SnapshotFlags &
  Omit<ConvergenceFlags, "downtimeLimit"> & {
    readonly out: string;
    readonly then: "pause" | "resume" | "quit";
    readonly downtimeLimit?: number;
  };

const EXAMPLE = `
Example:
  multifd qemu save --qmp /run/vm.qmp --out vm.snapshot --then resume --compression zstd`;

/** Where the guest goes on, QEMU's own default; where it does not, the downtime has no end anyway. */
const DOWNTIME_LIMIT_MS = { resume: 300, pause: Number.MAX_SAFE_INTEGER, quit: Number.MAX_SAFE_INTEGER };

export function addQemuSaveCommand(group: Command, context: CommandContext): void {
  const command = group
    .command("save")
    .summary("save the guest of a running QEMU into a snapshot file")
    .description(
      "Saves the guest of a running QEMU into a snapshot file, and verifies it. After a failure or a cancellation the VM " +
        "runs as before, with its migration settings as they were, and there is no file.",
    );
  addQmpFlag(command)
    .addOption(new Option("--out <path>", "the snapshot file, which must not exist yet").makeOptionMandatory())
    .addOption(
      new Option("--then <what>", "what becomes of the VM: pause leaves it stopped, until QEMU is told to cont")
        .choices(["pause", "resume", "quit"])
        .default("pause"),
    )
    .addOption(
      new Option(
        "--downtime-limit <ms>",
        "stop the guest once the rest can be saved within this time (default: 300 with --then resume, else at once)",
      ).argParser(milliseconds),
    );
  addSnapshotFlags(command, "mapped-ram");
  addDrivingFlags(addRoundLimit(command), "this command")
    .addHelpText("after", EXAMPLE)
    .action((flags: SaveFlags) => save(command, context, flags));
}

async function save(command: Command, context: CommandContext, flags: SaveFlags): Promise<void> {
  checkLevel(command, flags);
  await runMigration(context, flags, ({ onEvent, signal, warn }) =>
    driveQemu(flags, (qmp, listen) =>
      saveVm({
        qmp,
        keeper: keepInSnapshot(flags.out, flags.form ?? "mapped-ram", flags.formLevel),
        listen,
        channels: flags.channels,
        compression: flags.compression,
        level: flags.level,
        maxBandwidth: flags.maxBandwidth,
        downtimeLimitMs: flags.downtimeLimit ?? DOWNTIME_LIMIT_MS[flags.then],
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
