/**
 * `multifd cloud-hypervisor relay`: passes a migration on between two Cloud Hypervisors, or over multifd packets.
 *
 * Two of them carry a migration over a slow link: the one beside the source sends multifd packets, on several
 * channels and compressed, the one beside the destination takes them in. Each end's flags are its protocol's.
 */
import { type Address, formatAddress } from "@multifd/channel";
import type { RelayResult } from "@multifd/engine";
import { type CloudHypervisorRelayJob, runCloudHypervisorRelay } from "@multifd/peer-cloud-hypervisor";
import { QemuDestinationPeer, QemuSourcePeer } from "@multifd/peer-qemu";
import { ERAS } from "@multifd/protocol";
import { type Command, Option } from "commander";
import {
  addHandshakeTimeout,
  addSharedChannelFlags,
  CONNECT_TIMEOUT_MS,
  checkLevel,
  type SharedChannelFlags,
} from "../channel-flags.js";
import { addPeerFlags, type CloudHypervisorFlags } from "../cloud-hypervisor/flags.js";
import type { OutputFlags } from "../event-output.js";
import { addOutputFlags, type MigrationWatch, runMigration } from "../migration-command.js";
import { address, wholeNumber } from "../option-values.js";
import type { CommandContext } from "../terminal.js";
import { addConnectTlsFlags, addListenTlsFlags, checkTlsFlags, connectTls, listenTls } from "../tls-flags.js";

type Protocol = "cloud-hypervisor" | "multifd";

type RelayFlags = SharedChannelFlags &
  CloudHypervisorFlags &
  OutputFlags & {
    readonly listen: Address;
    readonly listenProtocol: Protocol;
    readonly to: Address;
    readonly toProtocol: Protocol;
    readonly level: number;
    readonly handshakeTimeout: number;
  };

const EXAMPLE = `
Example:
  beside the destination:
  multifd cloud-hypervisor relay --listen tcp::4444 --listen-protocol multifd --compression zstd --to unix:/run/new.sock
  beside the source:
  multifd cloud-hypervisor relay --listen unix:/run/in.sock --to tcp:10.0.0.2:4444 --to-protocol multifd --compression zstd`;

export function addCloudHypervisorRelay(group: Command, context: CommandContext): void {
  const command = group
    .command("relay")
    .summary("pass a migration on, over multifd packets between two relays")
    .description(
      "Takes a live migration in and passes it on, in Cloud Hypervisor's protocol or as multifd packets at either end. " +
        "RAM is held in memory while it passes, and the source learns what the destination says.",
    )
    .addOption(
      new Option(
        "--listen <address>",
        "tcp:HOST:PORT or unix:PATH; HOST empty for every interface, PORT 0 for a free one",
      )
        .argParser(address)
        .makeOptionMandatory(),
    )
    .addOption(protocolOption("--listen-protocol <name>", "what the source speaks"))
    .addOption(new Option("--to <address>", "tcp:HOST:PORT or unix:PATH").argParser(address).makeOptionMandatory())
    .addOption(protocolOption("--to-protocol <name>", "what the destination speaks"))
    .addOption(
      new Option("--level <level>", "compression level towards a multifd destination: zlib 0 to 9, zstd 0 to 20")
        .argParser(wholeNumber(0, 20))
        .default(1),
    );
  addHandshakeTimeout(addSharedChannelFlags(addPeerFlags(command, "of a Cloud Hypervisor destination", "v53")));
  addConnectTlsFlags(addListenTlsFlags(command), "to-tls");
  addOutputFlags(command)
    .addHelpText("after", EXAMPLE)
    .action(async (flags: RelayFlags) => {
      if (flags.listenProtocol === "multifd" && flags.toProtocol === "multifd")
        command.error("error: multifd packets at both ends: that is multifd relay");
      checkLevel(command, flags);
      checkTlsFlags(command);
      checkTlsFlags(command, "to-tls");
      await runMigration(context, flags, (watch) => relay(flags, watch));
    });
}

function protocolOption(flag: string, what: string): Option {
  return new Option(flag, what).choices(["cloud-hypervisor", "multifd"]).default("cloud-hypervisor");
}

async function relay(flags: RelayFlags, { onEvent, signal }: MigrationWatch): Promise<RelayResult> {
  const to = destinationEnd(flags);
  return await runCloudHypervisorRelay({ from: await sourceEnd(flags, onEvent), to, onEvent, signal });
}

async function sourceEnd(
  flags: RelayFlags,
  onEvent: MigrationWatch["onEvent"],
): Promise<CloudHypervisorRelayJob["from"]> {
  const { channels, compression, connections, listen } = flags;
  const common = {
    handshakeTimeoutMs: flags.handshakeTimeout,
    stallTimeoutMs: flags.stallTimeout,
    ...listenTls(flags),
  };
  if (flags.listenProtocol === "cloud-hypervisor") {
    const job = { ...common, address: listen, era: ERAS.next, channels: connections };
    return { protocol: "cloud-hypervisor", job };
  }
  const peer = await QemuDestinationPeer.listen(listen, { ...common, channels, compression });
  onEvent({ event: "listening", address: formatAddress(peer.address), channels });
  return { protocol: "multifd", job: { peer, compression, stallTimeoutMs: flags.stallTimeout } };
}

function destinationEnd(flags: RelayFlags): CloudHypervisorRelayJob["to"] {
  const { channels, compression, connections, level, release, stallTimeout: stallTimeoutMs } = flags;
  const terms = { address: flags.to, connectTimeoutMs: CONNECT_TIMEOUT_MS, ...connectTls(flags, flags.to, "to-tls") };
  if (flags.toProtocol === "cloud-hypervisor")
    return { protocol: "cloud-hypervisor", job: { ...terms, era: release, channels: connections, stallTimeoutMs } };
  const peer = new QemuSourcePeer({ ...terms, channels, compression });
  return { protocol: "multifd", job: { peer, compression, level, stallTimeoutMs } };
}
