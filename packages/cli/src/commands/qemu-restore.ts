/**
 * `multifd qemu restore`: a snapshot file into a QEMU that waits with `-incoming defer`.
 */
import { openSnapshot, restoreVm, storedGuest } from "@multifd/peer-qemu";
import { type Command, Option } from "commander";
import { CONNECT_TIMEOUT_MS, checkLevel } from "../channel-flags.js";
import { runMigration } from "../migration-command.js";
import { addDrivingFlags, addQmpFlag, type DrivingFlags, driveQemu } from "../qemu-driving.js";
import type { CommandContext } from "../terminal.js";

type RestoreFlags = DrivingFlags & {
  readonly from: string;
  readonly then: "as-saved" | "pause" | "resume";
};

const EXAMPLE = `
Example:
  qemu-system-x86_64 ... -incoming defer -qmp unix:/run/vm.qmp,server=on,wait=off &
  multifd qemu restore --qmp /run/vm.qmp --from vm.snapshot`;

export function addQemuRestoreCommand(group: Command, context: CommandContext): void {
  const command = group
    .command("restore")
    .summary("restore a snapshot file into a QEMU that waits for it")
    .description(
      "Restores a snapshot file into a QEMU that was started with -incoming defer. What does not fit (machine type, " +
        "RAM blocks and their sizes, capabilities) is named before anything is sent, and that QEMU goes on waiting.",
    );
  addQmpFlag(command)
    .addOption(
      new Option("--from <path>", "the snapshot file, mapped-ram (QEMU's or ours) or compressed").makeOptionMandatory(),
    )
    .addOption(
      new Option("--then <what>", "whether the guest runs; as-saved: if it ran when saved, and QEMU has no -S")
        .choices(["as-saved", "pause", "resume"])
        .default("as-saved"),
    );
  addDrivingFlags(command, "QEMU")
    .addHelpText("after", EXAMPLE)
    .action((flags: RestoreFlags) => restore(command, context, flags));
}

async function restore(command: Command, context: CommandContext, flags: RestoreFlags): Promise<void> {
  checkLevel(command, flags);
  await runMigration(context, flags, async ({ onEvent, signal, warn }) => {
    const snapshot = await openSnapshot(flags.from);
    try {
      return await driveQemu(flags, (qmp, listen) =>
        restoreVm({
          qmp,
          guest: storedGuest(snapshot),
          devices: snapshot.devices,
          listen,
          channels: flags.channels,
          compression: flags.compression,
          level: flags.level,
          maxBandwidth: flags.maxBandwidth,
          connectTimeoutMs: CONNECT_TIMEOUT_MS,
          stallTimeoutMs: flags.stallTimeout,
          afterwards: flags.then,
          onEvent,
          onWarning: warn,
          signal,
        }),
      );
    } finally {
      await snapshot.close();
    }
  });
}
