/**
 * multifd as an endpoint: the command line's `send` and `receive`, as an operator runs them.
 */
import { fileURLToPath } from "node:url";
import { type DestinationProgram, type Job, listenAddress, RAM_BLOCK, type SourceProgram } from "./endpoint.js";
import { runSource, startDestination } from "./event-endpoint.js";

const HOLD = new URL("hold.js", import.meta.url).href;
const COMMAND = fileURLToPath(new URL("main.js", import.meta.resolve("@multifd/cli")));

export const multifdDestination: DestinationProgram = (job) =>
  startDestination("multifd receive", process.execPath, [
    ...["--import", HOLD, COMMAND, "receive", "--json", ...channelFlags(job)],
    ...["--listen", listenAddress(job), "--devices", `${job.dir}/devices`],
    ...["--ram", `${RAM_BLOCK}=${job.receivedPath}`],
  ]);

export const multifdSource: SourceProgram = (job, address) =>
  runSource("multifd send", process.execPath, [
    ...["--import", HOLD, COMMAND, "send", "--json", ...channelFlags(job)],
    ...["--to", address, "--ram", `${RAM_BLOCK}=${job.imagePath}`],
  ]);

function channelFlags(job: Job): string[] {
  return ["--channels", `${job.channels}`, "--compression", job.method];
}
