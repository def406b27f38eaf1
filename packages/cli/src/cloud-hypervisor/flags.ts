/**
 * Cloud Hypervisor's flags: what both ends of such a migration are told, with the names that its own commands use.
 */
import { CONNECTIONS_MAX, type Era, eraOfRelease, MigrationError } from "@multifd/protocol";
import { type Command, InvalidArgumentError, Option } from "commander";
import { milliseconds, wholeNumber } from "../option-values.js";

export type CloudHypervisorFlags = {
  readonly release: Era;
  readonly connections: number;
  readonly stallTimeout: number;
};

/** @param whose  What `--release` says, for its help. */
export function addCloudHypervisorFlags(command: Command, whose: string, releaseDefault: string): Command {
  return addPeerFlags(command, whose, releaseDefault).addOption(
    new Option("--stall-timeout <ms>", "fail when nothing moves for this long; 0 waits for ever")
      .argParser(milliseconds)
      .default(60_000),
  );
}

/** As `addCloudHypervisorFlags`, for commands that have a stall timeout already. */
export function addPeerFlags(command: Command, whose: string, releaseDefault: string): Command {
  return command
    .addOption(
      new Option("--release <version>", `${whose}, such as v53, v28 or "next" (after 53.0)`)
        .argParser(release)
        .default(eraOfRelease(releaseDefault), releaseDefault),
    )
    .addOption(
      new Option("--connections <n>", "connections that carry RAM; more than 1 from release v52 on")
        .argParser(wholeNumber(1, CONNECTIONS_MAX))
        .default(1),
    );
}

function release(text: string): Era {
  try {
    return eraOfRelease(text);
  } catch (error) {
    if (error instanceof MigrationError) throw new InvalidArgumentError(`${error.message}.`);
    throw error;
  }
}
