/**
 * `multifd doctor`: what this machine offers, and what to do about what it lacks.
 *
 * Exit code 0 when a migration can run here, whatever else is missing.
 */
import type { Command } from "commander";
import { canMigrate, describeFindings } from "../doctor/findings.js";
import { examineMachine } from "../doctor/machine.js";
import { examinePeers } from "../doctor/peers.js";
import type { CommandContext } from "../terminal.js";

const EXAMPLE = `
Example:
  multifd doctor --json`;

export function addDoctorCommand(program: Command, context: CommandContext): void {
  program
    .command("doctor")
    .summary("show what this machine offers, and what to do about what it lacks")
    .description(
      "Examines kernel features, codecs, memory and installed peers. Exits with 0 when a migration can run here.",
    )
    .option("--json", "print one JSON object")
    .addHelpText("after", EXAMPLE)
    .action(async (flags: { readonly json?: boolean }) => {
      const findings = [...examineMachine(), ...(await examinePeers())];
      const ready = canMigrate(findings);
      context.exitCode = ready ? 0 : 1;
      const { out } = context.terminal;
      if (flags.json) out(`${JSON.stringify({ ready, findings })}\n`);
      else
        out(`${describeFindings(findings)}\n${ready ? "A migration can run here." : "No migration can run here."}\n`);
    });
}
