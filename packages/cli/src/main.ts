#!/usr/bin/env node
/**
 * The multifd command: the process's own streams around `runCommandLine`.
 */
import { runCommandLine } from "./program.js";
import { processTerminal } from "./terminal.js";

process.exitCode = await runCommandLine(process.argv.slice(2), processTerminal());
