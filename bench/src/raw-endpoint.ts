/**
 * The raw ceiling as an endpoint: `raw-ceiling.c`, which moves the pages and does nothing else.
 */
import { fileURLToPath } from "node:url";
import { type DestinationProgram, listenAddress, type SourceProgram } from "./endpoint.js";
import { runSource, startDestination } from "./event-endpoint.js";

const COMMAND = fileURLToPath(new URL("../build/raw-ceiling", import.meta.url));

/** @param through  Straight into a mapping of the file, by pwrite into the file, or by UFFDIO_COPY. */
export function rawDestination(through: "mapping" | "file" | "fresh"): DestinationProgram {
  return (job) =>
    startDestination("raw-ceiling receive", COMMAND, [
      ...["receive", listenAddress(job), `${job.channels}`],
      ...[job.receivedPath, `${job.ramBytes}`, through],
    ]);
}

/** @param through  Out of a mapping of the image, or by pread. */
export function rawSource(through: "mapping" | "file"): SourceProgram {
  return async (job, address) => {
    await job.ready(); // it starts in no time
    return runSource("raw-ceiling send", COMMAND, ["send", address, `${job.channels}`, job.imagePath, through]);
  };
}
