/**
 * `multifd convert`: a snapshot from one form into the other, or written anew in its own.
 *
 * A stored guest is saved anew, by several threads at once, in bounded memory, and checked
 * like every other. A compressed snapshot written anew loses its outdated pages.
 */
import { type MigrationResult, runSave } from "@multifd/engine";
import { openSnapshot, type Snapshot, storedGuest } from "@multifd/peer-qemu";
import type { Command } from "commander";
import { addThreads } from "../channel-flags.js";
import type { OutputFlags } from "../event-output.js";
import { addOutputFlags, type MigrationWatch, runMigration } from "../migration-command.js";
import { addSnapshotFlags, type SnapshotFlags, snapshotWriter } from "../snapshot-flags.js";
import type { CommandContext } from "../terminal.js";

type ConvertFlags = OutputFlags & SnapshotFlags & { readonly channels: number };

const EXAMPLE = `
Example:
  multifd convert vm.mapped-ram vm.snapshot
  multifd convert vm.snapshot smaller.snapshot --form compressed --form-level 9`;

export function addConvertCommand(program: Command, context: CommandContext): void {
  const command = program
    .command("convert")
    .summary("turn a mapped-ram snapshot into a compressed one, or back")
    .description("Writes a snapshot in the other form, or anew in its own.")
    .argument("<in>", "the snapshot")
    .argument("<out>", "where the new one goes; replaced when the new one is whole");
  addThreads(addSnapshotFlags(command, "the one that IN has not"));
  addOutputFlags(command)
    .addHelpText("after", EXAMPLE)
    .action(async (path: string, out: string, flags: ConvertFlags) => {
      await runMigration(context, flags, async (watch) => {
        const snapshot = await openSnapshot(path);
        try {
          return await convert(snapshot, out, flags, watch);
        } finally {
          await snapshot.close();
        }
      });
    });
}

function convert(
  snapshot: Snapshot,
  out: string,
  flags: ConvertFlags,
  { onEvent, signal }: MigrationWatch,
): Promise<MigrationResult> {
  const form = flags.form ?? (snapshot.form === "compressed" ? "mapped-ram" : "compressed");
  return runSave({
    guest: storedGuest(snapshot),
    into: snapshotWriter(out, form, flags.formLevel),
    name: out,
    threads: flags.channels,
    devices: snapshot.devices,
    onEvent,
    signal,
    maxBandwidth: 0,
    downtimeLimitMs: 0,
    roundsMax: 1,
    atRoundLimit: "switchover",
    stallTimeoutMs: 0,
  });
}
