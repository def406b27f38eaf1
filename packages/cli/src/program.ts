/**
 * Program: all commands under one name, and their exit codes.
 *
 * 0 done, 1 failed, 2 usage. Commander reports usage errors itself, in one line;
 * here they only become an exit code. Nothing below ends the
 * process: whoever calls sets the code and lets the event loop run dry, because
 * workers must have returned from the C library before the process goes.
 */
import { readFileSync } from "node:fs";
import { Command, CommanderError } from "commander";
import { addBenchCommand } from "./commands/bench.js";
import { addCloudHypervisorCommand } from "./commands/cloud-hypervisor.js";
import { addConvertCommand } from "./commands/convert.js";
import { addDemoCommand } from "./commands/demo.js";
import { addDoctorCommand } from "./commands/doctor.js";
import { addInspectCommand } from "./commands/inspect.js";
import { addMigrateCommand } from "./commands/migrate.js";
import { addQemuCommand } from "./commands/qemu.js";
import { addReceiveCommand } from "./commands/receive.js";
import { addRelayCommand } from "./commands/relay.js";
import { addSendCommand } from "./commands/send.js";
import { addVhostUserCommand } from "./commands/vhost-user.js";
import type { CommandContext, Terminal } from "./terminal.js";

/**
 * Runs one command line.
 *
 * @param words  What follows the program's name.
 * @returns The exit code.
 */
export async function runCommandLine(words: readonly string[], terminal: Terminal): Promise<0 | 1 | 2> {
  const context: CommandContext = { terminal, exitCode: 0 };
  const program = buildProgram(context);
  try {
    await program.parseAsync(words, { from: "user" });
    return context.exitCode;
  } catch (error) {
    if (!(error instanceof CommanderError)) throw error;
    return error.exitCode === 0 ? 0 : 2;
  }
}

function buildProgram(context: CommandContext): Command {
  const { terminal } = context;
  const program = new Command("multifd")
    .description("Moves virtual machines: RAM and device state over parallel channels, in QEMU's multifd protocol.")
    .version(version(), "--version", "print the version")
    .helpOption("-h, --help", "print this help")
    .configureOutput({
      writeOut: terminal.out,
      writeErr: terminal.err,
      outputError: (text, write) => write(text),
    })
    .configureHelp({ showGlobalOptions: false })
    .showSuggestionAfterError(false) // one line is enough
    .exitOverride();
  addDemoCommand(program, context);
  addReceiveCommand(program, context);
  addSendCommand(program, context);
  addRelayCommand(program, context);
  addMigrateCommand(program, context);
  addConvertCommand(program, context);
  addQemuCommand(program, context);
  addCloudHypervisorCommand(program, context);
  addVhostUserCommand(program, context);
  addInspectCommand(program, context);
  addDoctorCommand(program, context);
  addBenchCommand(program, context);
  return program;
}

function version(): string {
  const manifest = JSON.parse(readFileSync(new URL("../package.json", import.meta.url), "utf8")) as { version: string };
  return manifest.version;
}
