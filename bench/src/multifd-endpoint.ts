/**
 * multifd as an endpoint: the command line's `send` and `receive`, as an operator runs them.
 */
import { fileURLToPath } from "node:url";
import type { Codec } from "./codecs.js";
import { LEVEL } from "./codecs.js";
import { type DestinationProgram, listenAddress, RAM_BLOCK, type SourceJob, type SourceProgram } from "./endpoint.js";
import { runSource, startDestination } from "./event-endpoint.js";

const HOLD = new URL("hold.js", import.meta.url).href;
const STAND_BY = new URL("stand-by.js", import.meta.url).href;
const COMMAND = fileURLToPath(new URL("main.js", import.meta.resolve("@multifd/cli")));

/** Arguments of Node for one of our commands that stays, once done, until its standard input ends. */
export function heldCommand(...words: readonly string[]): string[] {
  return ["--import", HOLD, COMMAND, ...words];
}

export const multifdDestination: DestinationProgram = (job) =>
  startDestination(
    "multifd receive",
    process.execPath,
    heldCommand(
      ...["receive", "--json", ...channelFlags(job)],
      ...["--listen", listenAddress(job), "--devices", `${job.dir}/devices`],
      ...["--ram", `${RAM_BLOCK}=${job.receivedPath}`],
    ),
  );

/** A source for our own destination, which wants no devices. */
export const multifdSource: SourceProgram = (job, address) => send(job, address, []);

/** @param devices  Gives a device part that the destination's machine takes. */
export function multifdSourceWith(devices: (job: SourceJob) => string): SourceProgram {
  return (job, address) => send(job, address, ["--devices", devices(job)]);
}

function send(job: SourceJob, address: string, more: readonly string[]) {
  const words = ["send", "--json", ...channelFlags(job), "--level", `${LEVEL}`, "--to", address];
  return runSource(
    "multifd send",
    process.execPath,
    ["--import", STAND_BY, ...heldCommand(...words, "--ram", `${RAM_BLOCK}=${job.imagePath}`, ...more)],
    job.ready,
  );
}

function channelFlags({ channels, codec }: { readonly channels: number; readonly codec: Codec }): string[] {
  return ["--channels", `${channels}`, "--compression", codec.method];
}
