/**
 * `multifd migrate`: a running guest to another host, through its control socket.
 *
 * The guest runs on until what is left fits the downtime limit. Any failure,
 * a signal among them, lets it go on here.
 */
import type { Address } from "@multifd/channel";
import { runSource } from "@multifd/engine";
import { QemuSourcePeer } from "@multifd/peer-qemu";
import { type Command, Option } from "commander";
import {
  addChannelFlags,
  addDowntimeLimit,
  addRoundLimit,
  addSpeedFlags,
  type ChannelFlags,
  CONNECT_TIMEOUT_MS,
  type ConvergenceFlags,
  checkLevel,
  type SpeedFlags,
} from "../channel-flags.js";
import type { OutputFlags } from "../event-output.js";
import { LiveGuest } from "../live-guest.js";
import { addOutputFlags, runMigration } from "../migration-command.js";
import { address, guestAddress } from "../option-values.js";
import type { CommandContext } from "../terminal.js";
import { addConnectTlsFlags, checkTlsFlags, connectTls } from "../tls-flags.js";
import { addBackEndFlag, type BackEndFlags, GuestBackEnds } from "../vhost-user/guest-back-ends.js";

type MigrateFlags = ChannelFlags &
  SpeedFlags &
  ConvergenceFlags &
  OutputFlags &
  BackEndFlags & {
    readonly guest: Address;
    readonly to: Address;
  };

const EXAMPLE = `
Example:
  multifd migrate --guest unix:/run/guest.sock --to tcp:10.0.0.2:4444 --channels 4 --downtime-limit 100
  multifd migrate --guest unix:/run/guest.sock --to tcp:10.0.0.2:4444 --vhost-user files=/run/virtiofsd.sock`;

export function addMigrateCommand(program: Command, context: CommandContext): void {
  const command = program
    .command("migrate")
    .summary("migrate a running guest, live, through its control socket")
    .description(
      "Migrates a running guest to a multifd destination. The guest hands over its RAM and registers it for " +
        "write tracking; whatever fails, it goes on here.",
    )
    .addOption(
      new Option("--guest <address>", "the guest's control socket, unix:PATH")
        .argParser(guestAddress)
        .makeOptionMandatory(),
    )
    .addOption(new Option("--to <address>", "tcp:HOST:PORT or unix:PATH").argParser(address).makeOptionMandatory());
  addBackEndFlag(addConnectTlsFlags(addRoundLimit(addDowntimeLimit(addSpeedFlags(addChannelFlags(command))))));
  addOutputFlags(command)
    .addHelpText("after", EXAMPLE)
    .action(async (flags: MigrateFlags) => {
      checkLevel(command, flags);
      checkTlsFlags(command);
      await migrate(context, flags);
    });
}

async function migrate(context: CommandContext, flags: MigrateFlags): Promise<void> {
  await runMigration(context, flags, async ({ onEvent, signal, warn }) => {
    const guest = await LiveGuest.open(flags.guest);
    let backEnds: GuestBackEnds | null = null;
    try {
      backEnds = await GuestBackEnds.open(guest.socket, flags.vhostUser ?? new Map());
      const peer = new QemuSourcePeer({
        address: flags.to,
        channels: flags.channels,
        ...(flags.uuid && { uuid: flags.uuid }),
        connectTimeoutMs: CONNECT_TIMEOUT_MS,
        compression: flags.compression,
        ...connectTls(flags, flags.to),
      });
      const result = await runSource({
        guest: backEnds.around(guest),
        peer,
        onEvent,
        signal,
        compression: flags.compression,
        level: flags.level,
        devices: null,
        downtimeLimitMs: flags.downtimeLimit,
        maxBandwidth: flags.maxBandwidth,
        roundsMax: flags.roundsMax,
        atRoundLimit: flags.atRoundLimit,
        stallTimeoutMs: flags.stallTimeout,
      });
      backEnds.end();
      return result;
    } finally {
      for (const [name, error] of backEnds?.lost ?? [])
        warn(`device "${name}" could not be resumed, the guest goes on without it: ${error.message}`);
      backEnds?.leave();
      guest.close();
    }
  });
}
