/**
 * `multifd receive`: takes one migration in, from QEMU or multifd.
 *
 * Into files, the named RAM blocks each into its own and everything else into the
 * device part; or into one snapshot; or into a guest process that waits for it and then runs.
 */
import { type Address, formatAddress } from "@multifd/channel";
import {
  type DestinationGuest,
  type MigrationResult,
  RamFiles,
  runDestination,
  type SavedGuest,
} from "@multifd/engine";
import { QemuDestinationPeer, writeDeviceFile } from "@multifd/peer-qemu";
import { type Command, Option } from "commander";
import { addChannelFlags, addHandshakeTimeout, type ChannelFlags } from "../channel-flags.js";
import type { OutputFlags } from "../event-output.js";
import { IncomingGuest } from "../incoming-guest.js";
import { addOutputFlags, type MigrationWatch, runMigration } from "../migration-command.js";
import { address, guestAddress, ramFile } from "../option-values.js";
import { addSnapshotFlags, type SnapshotFlags, snapshotWriter } from "../snapshot-flags.js";
import type { CommandContext } from "../terminal.js";
import { addListenTlsFlags, checkTlsFlags, listenTls } from "../tls-flags.js";
import { addBackEndFlag, type BackEndFlags, WaitingBackEnds } from "../vhost-user/guest-back-ends.js";

type ReceiveFlags = ChannelFlags &
  OutputFlags &
  SnapshotFlags &
  BackEndFlags & {
    readonly listen: Address;
    readonly out?: string;
    readonly ram?: ReadonlyMap<string, string>;
    readonly devices?: string;
    readonly ignoreShared?: true;
    readonly guest?: Address;
    readonly handshakeTimeout: number;
  };

const EXAMPLE = `
Example:
  multifd receive --listen tcp::4444 --ram pc.ram=/dev/shm/vm.ram --devices vm.devices --channels 4
  multifd receive --listen unix:/run/in.sock --out vm.snapshot --form compressed`;

export function addReceiveCommand(program: Command, context: CommandContext): void {
  const command = program
    .command("receive")
    .summary("take one migration in, into files, a snapshot or a waiting guest")
    .description(
      "Takes one migration in, from QEMU or multifd: into RAM files that a VM can map and a device part, into a " +
        "snapshot file that holds everything, or into a guest process that waits for it.",
    )
    .addOption(
      new Option(
        "--listen <address>",
        "tcp:HOST:PORT or unix:PATH; HOST empty for every interface, PORT 0 for a free one",
      )
        .argParser(address)
        .makeOptionMandatory(),
    )
    .addOption(
      new Option("--ram <block=path...>", "the file for a RAM block; the others go with --devices").argParser(ramFile),
    )
    .option("--devices <path>", "where the device part and the RAM blocks not named go (default: they are dropped)")
    .addOption(
      new Option(
        "--ignore-shared",
        "the source leaves the blocks of --ram out (share=on, capability x-ignore-shared): take the rest; their files are only looked at",
      ).conflicts(["out", "guest"]),
    )
    .addOption(
      new Option("--out <path>", "a snapshot: one file with everything in it").conflicts(["ram", "devices", "guest"]),
    )
    .addOption(
      new Option("--guest <address>", "control socket of a guest process that waits, unix:PATH")
        .argParser(guestAddress)
        .conflicts(["ram", "devices"]),
    );
  addSnapshotFlags(command, "mapped-ram");
  addBackEndFlag(addHandshakeTimeout(addListenTlsFlags(addChannelFlags(command))));
  addOutputFlags(command)
    .addHelpText("after", EXAMPLE)
    .action(async (flags: ReceiveFlags) => {
      if (!flags.guest && !flags.ram && flags.devices === undefined && flags.out === undefined) {
        command.error(
          "error: name where it goes: --ram BLOCK=PATH and --devices PATH, or --out PATH, or --guest unix:PATH",
        );
      }
      if (flags.ignoreShared && (!flags.ram || flags.devices === undefined)) {
        command.error(
          "error: --ignore-shared leaves only the device part: name the files with --ram, it with --devices",
        );
      }
      if (flags.form !== undefined && flags.out === undefined) {
        command.error("error: --form is a snapshot's: name its file with --out PATH");
      }
      if (flags.vhostUser && !flags.guest)
        command.error("error: --vhost-user names a guest's devices: name the guest with --guest unix:PATH");
      checkTlsFlags(command);
      await receive(context, flags);
    });
}

async function receive(context: CommandContext, flags: ReceiveFlags): Promise<void> {
  if (!flags.guest && flags.devices === undefined && flags.out === undefined) {
    context.terminal.err("only the RAM blocks named are kept; for a whole VM name a file with --devices too\n");
  }
  await runMigration(context, flags, async (watch) => {
    if (flags.out !== undefined) {
      return take(flags, watch, snapshotWriter(flags.out, flags.form ?? "mapped-ram", flags.formLevel));
    }
    if (!flags.guest)
      return take(
        flags,
        watch,
        new RamFiles(flags.ram ?? new Map(), deviceSaver(flags.devices), flags.ignoreShared ? "shared" : "received"),
      );
    const guest = await IncomingGuest.open(flags.guest);
    let backEnds: WaitingBackEnds | null = null;
    try {
      backEnds = await WaitingBackEnds.open(guest.socket, flags.vhostUser ?? new Map());
      const result = await take(flags, watch, backEnds.around(guest));
      await backEnds
        .announce(watch.signal)
        .catch((error: Error) => watch.warn(`the guest runs here, and was not announced: ${error.message}`));
      return { ...result, downtimeMs: guest.downtimeMs };
    } finally {
      backEnds?.leave();
      guest.close();
    }
  });
}

async function take(flags: ReceiveFlags, watch: MigrationWatch, guest: DestinationGuest): Promise<MigrationResult> {
  const peer = await QemuDestinationPeer.listen(flags.listen, {
    channels: flags.channels,
    compression: flags.compression,
    ...(flags.uuid && { uuid: flags.uuid }),
    handshakeTimeoutMs: flags.handshakeTimeout,
    ...(flags.ignoreShared && { sharedBlocks: new Set(flags.ram!.keys()) }),
    ...listenTls(flags),
  });
  watch.onEvent({ event: "listening", address: formatAddress(peer.address), channels: flags.channels });
  return await runDestination({
    guest,
    peer,
    onEvent: watch.onEvent,
    signal: watch.signal,
    compression: flags.compression,
    stallTimeoutMs: flags.stallTimeout,
  });
}

function deviceSaver(path: string | undefined): ((saved: SavedGuest) => Promise<void>) | null {
  return path === undefined ? null : (saved) => writeDeviceFile(path, saved);
}
