#!/usr/bin/env node
/**
 * The multifd command: the process's own streams around `runCommandLine`.
 *
 * Everything is compiled as it is loaded, and stays so: most of what a paused guest waits
 * for runs once in a migration, and compiled at its first call it would take longer than all it does.
 * Measured: bench/README.md, "Live guests".
 */
import { setFlagsFromString } from "node:v8";
import { processTerminal } from "./terminal.js";

setFlagsFromString("--no-lazy");
setFlagsFromString("--no-flush-bytecode");

const { runCommandLine } = await import("./program.js");
process.exitCode = await runCommandLine(process.argv.slice(2), processTerminal());
