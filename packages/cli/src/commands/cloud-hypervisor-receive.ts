/**
 * `multifd cloud-hypervisor receive`: takes one migration in, from Cloud Hypervisor or multifd.
 *
 * Into a snapshot directory that Cloud Hypervisor restores from; or into RAM files and the payloads of
 * Config and State, byte for byte; or into a guest process that waits for it and then runs.
 */
import type { Address } from "@multifd/channel";
import type { MigrationResult } from "@multifd/engine";
import {
  type CloudHypervisorDestinationGuest,
  runCloudHypervisorDestination,
  SnapshotGuest,
  StoredFiles,
} from "@multifd/peer-cloud-hypervisor";
import { type Command, Option } from "commander";
import { addHandshakeTimeout } from "../channel-flags.js";
import { addCloudHypervisorFlags, type CloudHypervisorFlags } from "../cloud-hypervisor/flags.js";
import { WaitingGuest } from "../cloud-hypervisor/guest-process.js";
import type { OutputFlags } from "../event-output.js";
import { IncomingGuest } from "../incoming-guest.js";
import { addOutputFlags, type MigrationWatch, runMigration } from "../migration-command.js";
import { address, guestAddress, ramFile } from "../option-values.js";
import type { CommandContext } from "../terminal.js";
import { addListenTlsFlags, checkTlsFlags, listenTls } from "../tls-flags.js";

type ReceiveFlags = CloudHypervisorFlags &
  OutputFlags & {
    readonly listen: Address;
    readonly out?: string;
    readonly ram?: ReadonlyMap<string, string>;
    readonly config?: string;
    readonly state?: string;
    readonly guest?: Address;
    readonly memory: "stream" | "on-demand";
    readonly lenientDescriptors?: true;
    readonly handshakeTimeout: number;
  };

const EXAMPLE = `
Example:
  multifd cloud-hypervisor receive --listen unix:/run/in.sock --out /var/lib/vm/snapshot
  ch-remote --api-socket=/run/vm.api send-migration destination_url=unix:/run/in.sock

  multifd cloud-hypervisor receive --listen tcp::4444 --ram mem0=/dev/shm/vm.ram --config vm.config --state vm.state`;

export function addCloudHypervisorReceive(group: Command, context: CommandContext): void {
  const command = group
    .command("receive")
    .summary("take one migration in, into a snapshot directory, files or a waiting guest")
    .description(
      "Takes one migration in, from Cloud Hypervisor or multifd: into a directory that Cloud Hypervisor restores from, " +
        "into RAM files beside the payloads of Config and State, or into a guest process that waits for it.",
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
      new Option("--out <dir>", "a snapshot: not there yet, or an empty directory").conflicts([
        "ram",
        "config",
        "state",
        "guest",
      ]),
    )
    .addOption(
      new Option(
        "--ram <block=path...>",
        "the file for a RAM block: the memory zone's id, with @0xADDRESS where a zone has several",
      ).argParser(ramFile),
    )
    .option("--config <path>", "with --ram: the file for Config, as it comes")
    .option("--state <path>", "with --ram: the file for State, as it comes")
    .addOption(
      new Option("--guest <address>", "control socket of a guest process that waits, unix:PATH")
        .argParser(guestAddress)
        .conflicts(["ram", "config", "state"]),
    )
    .addOption(
      new Option("--memory <how>", "as the source was told: RAM over the stream, or asked for at the end (postcopy)")
        .choices(["stream", "on-demand"])
        .default("stream"),
    )
    .option("--lenient-descriptors", "also take RAM descriptors behind Config, or with 16-bit slots");
  addHandshakeTimeout(
    addListenTlsFlags(addCloudHypervisorFlags(command, "whose sources are taken, and all older ones", "next")),
  );
  addOutputFlags(command)
    .addHelpText("after", EXAMPLE)
    .action(async (flags: ReceiveFlags) => {
      const files = flags.ram !== undefined && flags.config !== undefined && flags.state !== undefined;
      if (!files && flags.out === undefined && flags.guest === undefined)
        command.error(
          "error: name where it goes: --out DIR, or --ram BLOCK=PATH with --config PATH and --state PATH, or --guest unix:PATH",
        );
      checkTlsFlags(command);
      await runMigration(context, flags, (watch) => receive(flags, watch));
    });
}

async function receive(flags: ReceiveFlags, watch: MigrationWatch): Promise<MigrationResult> {
  const { out, ram, config, state } = flags;
  if (out !== undefined) return take(flags, watch, await SnapshotGuest.create(out));
  if (flags.guest === undefined)
    return take(flags, watch, new StoredFiles({ ram: ram!, config: config!, state: state! }));
  const guest = await IncomingGuest.open(flags.guest);
  try {
    const result = await take(flags, watch, new WaitingGuest(guest));
    return { ...result, downtimeMs: guest.downtimeMs };
  } finally {
    guest.close();
  }
}

function take(
  flags: ReceiveFlags,
  watch: MigrationWatch,
  guest: CloudHypervisorDestinationGuest,
): Promise<MigrationResult> {
  return runCloudHypervisorDestination({
    guest,
    address: flags.listen,
    era: flags.release,
    memory: flags.memory,
    lenientDescriptors: flags.lenientDescriptors === true,
    channels: flags.connections,
    ...listenTls(flags),
    handshakeTimeoutMs: flags.handshakeTimeout,
    stallTimeoutMs: flags.stallTimeout,
    onEvent: watch.onEvent,
    signal: watch.signal,
  });
}
