/**
 * `multifd relay`: takes a migration in on one setting and passes it on with another.
 *
 * It stands between two QEMUs, or two more relays with the slow link between them.
 * Nothing is kept: how it ends is between the source and the destination.
 */
import { type Address, formatAddress } from "@multifd/channel";
import { runRelay } from "@multifd/engine";
import { QemuRelayPeer } from "@multifd/peer-qemu";
import { type Command, Option } from "commander";
import {
  addChannelFlags,
  addHandshakeTimeout,
  addOutgoingFlags,
  type ChannelFlags,
  CONNECT_TIMEOUT_MS,
  checkLevel,
  type OutgoingFlags,
} from "../channel-flags.js";
import type { OutputFlags } from "../event-output.js";
import { addOutputFlags, runMigration } from "../migration-command.js";
import { address } from "../option-values.js";
import type { CommandContext } from "../terminal.js";
import { addConnectTlsFlags, addListenTlsFlags, checkTlsFlags, connectTls, listenTls } from "../tls-flags.js";

type RelayFlags = ChannelFlags &
  OutgoingFlags &
  OutputFlags & {
    readonly listen: Address;
    readonly to: Address;
    readonly handshakeTimeout: number;
  };

const EXAMPLE = `
Example:
  multifd relay --listen unix:/tmp/in.sock --to tcp:10.0.0.2:4444 --channels 2 --to-channels 4 --to-compression zstd`;

export function addRelayCommand(program: Command, context: CommandContext): void {
  const command = program
    .command("relay")
    .summary("pass a migration on, with other channels and another compression")
    .description(
      "Takes a live migration in and passes it on to a QEMU or multifd destination, over other channels and with " +
        "another compression. Nothing is stored, and the source learns what the destination says.",
    )
    .addOption(
      new Option(
        "--listen <address>",
        "tcp:HOST:PORT or unix:PATH; HOST empty for every interface, PORT 0 for a free one",
      )
        .argParser(address)
        .makeOptionMandatory(),
    )
    .addOption(new Option("--to <address>", "tcp:HOST:PORT or unix:PATH").argParser(address).makeOptionMandatory());
  addHandshakeTimeout(addOutgoingFlags(addChannelFlags(command)));
  addConnectTlsFlags(addListenTlsFlags(command), "to-tls");
  addOutputFlags(command)
    .addHelpText("after", EXAMPLE)
    .action(async (flags: RelayFlags) => {
      const compression = flags.toCompression ?? flags.compression;
      checkLevel(command, { compression, level: flags.toLevel }, "--to-level");
      checkTlsFlags(command);
      checkTlsFlags(command, "to-tls");
      await relay(context, flags);
    });
}

async function relay(context: CommandContext, flags: RelayFlags): Promise<void> {
  const { channels, compression, stallTimeout, toChannels = channels, toCompression = compression, toLevel } = flags;
  await runMigration(context, flags, async ({ onEvent, signal }) => {
    const from = {
      channels,
      compression,
      ...(flags.uuid && { uuid: flags.uuid }),
      handshakeTimeoutMs: flags.handshakeTimeout,
    };
    const to = {
      address: flags.to,
      channels: toChannels,
      connectTimeoutMs: CONNECT_TIMEOUT_MS,
      compression: toCompression,
    };
    const peer = await QemuRelayPeer.listen(
      flags.listen,
      { ...from, ...listenTls(flags) },
      { ...to, ...connectTls(flags, flags.to, "to-tls") },
    );
    onEvent({ event: "listening", address: formatAddress(peer.address), channels });
    return await runRelay({ peer, onEvent, signal, compression, toCompression, toLevel, stallTimeoutMs: stallTimeout });
  });
}
