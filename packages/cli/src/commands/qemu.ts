/**
 * `multifd qemu`: verbs that drive a QEMU through its QMP socket.
 */
import type { Command } from "commander";
import type { CommandContext } from "../terminal.js";
import { addQemuIncomingCommand } from "./qemu-incoming.js";
import { addQemuMigrateCommand } from "./qemu-migrate.js";
import { addQemuRestoreCommand } from "./qemu-restore.js";
import { addQemuSaveCommand } from "./qemu-save.js";
import { addQemuSnapshotCommand } from "./qemu-snapshot.js";

export function addQemuCommand(program: Command, context: CommandContext): void {
  const group = program
    .command("qemu")
    .summary("migrate a running QEMU's guest, save it into a file, restore it from there")
    .description("Drives a QEMU through its QMP socket (-qmp unix:PATH,server=on,wait=off).");
  addQemuMigrateCommand(group, context);
  addQemuIncomingCommand(group, context);
  addQemuSaveCommand(group, context);
  addQemuSnapshotCommand(group, context);
  addQemuRestoreCommand(group, context);
}
