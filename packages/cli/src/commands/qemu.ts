/**
 * `multifd qemu`: verbs that drive a QEMU through its QMP socket.
 */
import type { Command } from "commander";
import type { CommandContext } from "../terminal.js";
import { addQemuRestoreCommand } from "./qemu-restore.js";
import { addQemuSaveCommand } from "./qemu-save.js";

export function addQemuCommand(program: Command, context: CommandContext): void {
  const group = program
    .command("qemu")
    .summary("save a running QEMU's guest into a file, restore one from it")
    .description("Drives a QEMU through its QMP socket (-qmp unix:PATH,server=on,wait=off).");
  addQemuSaveCommand(group, context);
  addQemuRestoreCommand(group, context);
}
