/**
 * `multifd bench`: the harness of this checkout, under the command's name.
 *
 * The harness measures programs, ours among them, so it stands above this package
 * and cannot be imported from here. It is started as a process of its own, with
 * what was typed, and its exit code is ours; without a checkout it is not there.
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import type { Command } from "commander";
import type { CommandContext } from "../terminal.js";

const HARNESS = fileURLToPath(new URL("../../../../bench/dist/main.js", import.meta.url));

export function addBenchCommand(program: Command, context: CommandContext): void {
  program
    .command("bench")
    .summary("measure multifd beside QEMU, on this machine or between two")
    .description("Measures multifd beside QEMU and a raw loop, on the same RAM, in turns.")
    .argument("[options...]")
    .helpOption(false) // the harness has its own
    .allowUnknownOption()
    .action(async (words: readonly string[]) => {
      context.exitCode = await runHarness(words, context);
    });
}

async function runHarness(words: readonly string[], { terminal }: CommandContext): Promise<0 | 1 | 2> {
  if (!existsSync(HARNESS)) {
    terminal.err(`the bench is part of the checkout, and ${HARNESS} is not there; run "npm run setup" in a checkout\n`);
    return 1;
  }
  const harness = spawn(process.execPath, [HARNESS, ...words], { stdio: ["inherit", "pipe", "pipe"] });
  harness.stdout.setEncoding("utf8").on("data", terminal.out);
  harness.stderr.setEncoding("utf8").on("data", terminal.err);
  // From a terminal it gets the signal itself; it then ends its own processes before it ends.
  const passOn = (signal: NodeJS.Signals) => void harness.kill(signal);
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(signal, passOn);
  try {
    const [code] = (await once(harness, "close")) as [number | null];
    return code === 0 || code === 2 ? code : 1;
  } finally {
    for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.off(signal, passOn);
  }
}
