/**
 * `multifd cloud-hypervisor send`: a VM, to Cloud Hypervisor or multifd.
 *
 * Out of a snapshot directory, or of RAM files and the payloads of Config and State that `receive` kept; such
 * a guest is stopped, and one pass moves it. Or a running guest process, live.
 */
import type { Address } from "@multifd/channel";
import type { MigrationResult } from "@multifd/engine";
import {
  type CloudHypervisorSource,
  openSnapshotDirectory,
  openStoredFiles,
  runCloudHypervisorSource,
  snapshotSource,
} from "@multifd/peer-cloud-hypervisor";
import { type Command, Option } from "commander";
import {
  addDowntimeLimit,
  addRoundLimit,
  BANDWIDTH_MAX,
  CONNECT_TIMEOUT_MS,
  type ConvergenceFlags,
} from "../channel-flags.js";
import { addCloudHypervisorFlags, type CloudHypervisorFlags } from "../cloud-hypervisor/flags.js";
import { liveSource } from "../cloud-hypervisor/guest-process.js";
import type { OutputFlags } from "../event-output.js";
import { LiveGuest } from "../live-guest.js";
import { addOutputFlags, type MigrationWatch, runMigration } from "../migration-command.js";
import { address, byteSize, guestAddress, ramFile } from "../option-values.js";
import type { CommandContext } from "../terminal.js";
import { addConnectTlsFlags, checkTlsFlags, connectTls } from "../tls-flags.js";

type SendFlags = CloudHypervisorFlags &
  ConvergenceFlags &
  OutputFlags & {
    readonly to: Address;
    readonly from?: string;
    readonly ram?: ReadonlyMap<string, string>;
    readonly config?: string;
    readonly state?: string;
    readonly guest?: Address;
    readonly memory: "stream" | "descriptors" | "on-demand";
    readonly leavePaused?: true;
    readonly maxBandwidth: number;
  };

const EXAMPLE = `
Example:
  ch-remote --api-socket=/run/new.api receive-migration receiver_url=unix:/run/new.sock &
  multifd cloud-hypervisor send --from /var/lib/vm/snapshot --to unix:/run/new.sock

  multifd cloud-hypervisor send --ram mem0=/dev/shm/vm.ram --config vm.config --state vm.state --to tcp:10.0.0.2:4444 --connections 8`;

export function addCloudHypervisorSend(group: Command, context: CommandContext): void {
  const command = group
    .command("send")
    .summary("send a VM, from a snapshot directory, its files or a running guest process")
    .description("Sends a stopped VM, or a running guest process, to Cloud Hypervisor or multifd.")
    .addOption(
      new Option("--from <dir>", "a snapshot directory, Cloud Hypervisor's or ours").conflicts([
        "ram",
        "config",
        "state",
        "guest",
      ]),
    )
    .addOption(
      new Option("--ram <block=path...>", "a RAM block, as receive names it, and the file it lies in").argParser(
        ramFile,
      ),
    )
    .option("--config <path>", "with --ram: Config's payload")
    .option("--state <path>", "with --ram: State's payload")
    .addOption(
      new Option("--guest <address>", "control socket of a running guest process, unix:PATH")
        .argParser(guestAddress)
        .conflicts(["ram", "config", "state"]),
    )
    .addOption(new Option("--to <address>", "tcp:HOST:PORT or unix:PATH").argParser(address).makeOptionMandatory())
    .addOption(
      new Option(
        "--memory <how>",
        "RAM over the stream; as descriptors, to a VM on this machine, which then uses the very files of --ram; or when it is asked for (postcopy)",
      )
        .choices(["stream", "descriptors", "on-demand"])
        .default("stream"),
    )
    .option("--leave-paused", "the destination does not resume the guest (v52 and newer)")
    .addOption(
      new Option(
        "--max-bandwidth <bytes>",
        "bytes per second on the wire, such as 500M, until a live guest is paused; 0: no limit",
      )
        .argParser(byteSize(0, BANDWIDTH_MAX))
        .default(0),
    );
  addConnectTlsFlags(addRoundLimit(addDowntimeLimit(addCloudHypervisorFlags(command, "of the destination", "v53"))));
  addOutputFlags(command)
    .addHelpText("after", EXAMPLE)
    .action(async (flags: SendFlags) => {
      const files = flags.ram !== undefined && flags.config !== undefined && flags.state !== undefined;
      if (!files && flags.from === undefined && flags.guest === undefined)
        command.error(
          "error: name what is sent: --from DIR, or --ram BLOCK=PATH with --config PATH and --state PATH, or --guest unix:PATH",
        );
      if (flags.memory === "descriptors" && flags.from !== undefined)
        command.error(
          "error: --memory descriptors would let the VM run in the snapshot's file: send it over the stream",
        );
      checkTlsFlags(command);
      await runMigration(context, flags, (watch) => send(flags, watch));
    });
}

async function send(flags: SendFlags, watch: MigrationWatch): Promise<MigrationResult> {
  const { from, guest, ram, config, state } = flags;
  if (from !== undefined) {
    const snapshot = await openSnapshotDirectory(from);
    try {
      return await pass(flags, watch, snapshotSource(snapshot));
    } finally {
      await snapshot.close();
    }
  }
  if (guest !== undefined) {
    const live = await LiveGuest.open(guest);
    try {
      return await pass(flags, watch, liveSource(live));
    } finally {
      live.close();
    }
  }
  const use = flags.memory === "descriptors" ? "share" : "read";
  const stored = await openStoredFiles({ ram: ram!, config: config!, state: state! }, use);
  try {
    return await pass(flags, watch, stored.source);
  } finally {
    await stored.close();
  }
}

function pass(flags: SendFlags, watch: MigrationWatch, source: CloudHypervisorSource): Promise<MigrationResult> {
  return runCloudHypervisorSource({
    source,
    address: flags.to,
    era: flags.release,
    memory: flags.memory,
    channels: flags.connections,
    handOver: flags.leavePaused ? "leave-paused" : "resume",
    ...connectTls(flags, flags.to),
    connectTimeoutMs: CONNECT_TIMEOUT_MS,
    stallTimeoutMs: flags.stallTimeout,
    downtimeLimitMs: flags.downtimeLimit,
    roundsMax: flags.roundsMax,
    atRoundLimit: flags.atRoundLimit,
    maxBandwidth: flags.maxBandwidth,
    onEvent: watch.onEvent,
    signal: watch.signal,
  });
}
