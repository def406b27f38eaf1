/**
 * Driving QEMU: what the `qemu` verbs share.
 *
 * The flags of the channels between QEMU and us, which are set at both sides and so
 * cannot disagree; the QMP socket, open for as long as a verb runs; and the place where
 * QEMU and we meet: a socket in a directory of our own, unless an address is named.
 */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Address } from "@multifd/channel";
import { QmpClient } from "@multifd/peer-qemu";
import type { QemuCompression } from "@multifd/protocol";
import { type Command, Option } from "commander";
import { addQemuChannelFlags, addSpeedFlags, type SharedChannelFlags, type SpeedFlags } from "./channel-flags.js";
import type { OutputFlags } from "./event-output.js";
import { addOutputFlags } from "./migration-command.js";
import { address } from "./option-values.js";

export type DrivingFlags = SharedChannelFlags<QemuCompression> &
  SpeedFlags &
  OutputFlags & {
    readonly qmp: string;
    readonly listen?: Address;
  };

export function addQmpFlag(command: Command): Command {
  return command.addOption(
    new Option("--qmp <path>", "QEMU's QMP socket; nobody else may be connected to it").makeOptionMandatory(),
  );
}

/** @param listener  Who opens the address. */
export function addDrivingFlags(command: Command, listener: string): Command {
  command.addOption(
    new Option(
      "--listen <address>",
      `where ${listener} listens for the channels, tcp:HOST:PORT or unix:PATH (default: a socket in a private directory, which a QEMU of another user cannot reach)`,
    ).argParser(address),
  );
  return addOutputFlags(addSpeedFlags(addQemuChannelFlags(command)));
}

/** Runs `drive` with QEMU's QMP socket and an address to meet at; closes and removes what it made. */
export async function driveQemu<Result>(
  flags: Pick<DrivingFlags, "qmp" | "listen">,
  drive: (qmp: QmpClient, listen: Address) => Promise<Result>,
): Promise<Result> {
  const qmp = await QmpClient.connect(flags.qmp);
  try {
    if (flags.listen) return await drive(qmp, flags.listen);
    return await withPrivateSocket((address) => drive(qmp, address));
  } finally {
    qmp.close();
  }
}

/** Gives an address that only this user can reach, and removes what was there. */
export function withPrivateSocket<Result>(use: (address: Address) => Promise<Result>): Promise<Result> {
  return withPrivateFolder((folder) => use({ kind: "unix", path: join(folder, "channels") }));
}

/** Gives a folder that only this user can reach, and removes it. */
export async function withPrivateFolder<Result>(use: (folder: string) => Promise<Result>): Promise<Result> {
  const folder = await mkdtemp(join(tmpdir(), "multifd-"));
  try {
    return await use(folder);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}
