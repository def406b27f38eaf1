/**
 * `multifd qemu incoming`: takes a guest in from `multifd qemu migrate`, into a QEMU that waits for it.
 */
import type { Address } from "@multifd/channel";
import { receiveQemu } from "@multifd/peer-qemu";
import { type Command, Option } from "commander";
import { addHandshakeTimeout, addSharedChannelFlags, type SharedChannelFlags } from "../channel-flags.js";
import type { OutputFlags } from "../event-output.js";
import { addOutputFlags, runMigration } from "../migration-command.js";
import { address, processId, ramFile } from "../option-values.js";
import { addQmpFlag, driveQemu } from "../qemu-driving.js";
import type { CommandContext } from "../terminal.js";
import { addListenTlsFlags, checkTlsFlags, listenTls } from "../tls-flags.js";

type QemuIncomingFlags = SharedChannelFlags &
  OutputFlags & {
    readonly qmp: string;
    readonly pid?: number;
    readonly listen: Address;
    readonly ram?: ReadonlyMap<string, string>;
    readonly handshakeTimeout: number;
    readonly then: "as-it-was" | "pause";
  };

const EXAMPLE = `
Example:
  qemu-system-x86_64 ... -incoming defer -qmp unix:/run/new.qmp,server=on,wait=off &
  multifd qemu incoming --qmp /run/new.qmp --listen tcp::4444 --channels 4 --compression zstd`;

export function addQemuIncomingCommand(group: Command, context: CommandContext): void {
  const command = group
    .command("incoming")
    .summary("take a guest in from `qemu migrate`, into a QEMU that waits for it")
    .description(
      "Takes a guest in from `multifd qemu migrate`, into a QEMU that was started like the source's, with RAM in shared " +
        "files of its own and -incoming defer. What does not fit is named before any RAM moves; after a failure no guest runs here.",
    );
  addQmpFlag(command)
    .addOption(
      new Option(
        "--pid <n>",
        "QEMU's process (default: as QEMU says itself), seen from this process namespace",
      ).argParser(processId),
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
      new Option(
        "--ram <block=path...>",
        "a RAM block's file, where we may not look at QEMU's own descriptors",
      ).argParser(ramFile),
    )
    .addOption(
      new Option("--then <what>", "whether the guest runs here; as-it-was: if it ran at the source")
        .choices(["as-it-was", "pause"])
        .default("as-it-was"),
    );
  addHandshakeTimeout(addListenTlsFlags(addSharedChannelFlags(command)));
  addOutputFlags(command)
    .addHelpText("after", EXAMPLE)
    .action(async (flags: QemuIncomingFlags) => {
      checkTlsFlags(command);
      await receive(context, flags);
    });
}

async function receive(context: CommandContext, flags: QemuIncomingFlags): Promise<void> {
  await runMigration(context, flags, ({ onEvent, signal, warn }) =>
    driveQemu({ qmp: flags.qmp }, (qmp, meeting) =>
      receiveQemu({
        qmp,
        ...(flags.pid !== undefined && { pid: flags.pid }),
        ramFiles: flags.ram ?? new Map(),
        listen: flags.listen,
        terms: {
          channels: flags.channels,
          handshakeTimeoutMs: flags.handshakeTimeout,
          ...listenTls(flags),
        },
        meeting,
        compression: flags.compression,
        stallTimeoutMs: flags.stallTimeout,
        afterwards: flags.then,
        onEvent,
        onWarning: warn,
        signal,
      }),
    ),
  );
}
