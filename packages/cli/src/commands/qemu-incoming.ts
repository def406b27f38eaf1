/**
 * `multifd qemu incoming`: takes a guest in from `multifd qemu migrate`, into a QEMU that waits for it, or that is started
 * for it and lives on with it.
 */
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import type { Address } from "@multifd/channel";
import { type ReceiveQemuJob, receiveAsSource, receiveIntoStarted, receiveQemu } from "@multifd/peer-qemu";
import { type Command, Option } from "commander";
import { addHandshakeTimeout, addSharedChannelFlags, type SharedChannelFlags } from "../channel-flags.js";
import type { OutputFlags } from "../event-output.js";
import { addOutputFlags, type MigrationWatch, runMigration } from "../migration-command.js";
import { address, processId } from "../option-values.js";
import { driveQemu, withPrivateFolder } from "../qemu-driving.js";
import {
  absoluteRamFiles,
  addRamFlag,
  addStartFlags,
  type StartFlags,
  type StartWishes,
  startWishes,
} from "../start-flags.js";
import type { CommandContext } from "../terminal.js";
import { addListenTlsFlags, checkTlsFlags, listenTls } from "../tls-flags.js";

type QemuIncomingFlags = SharedChannelFlags &
  OutputFlags &
  StartFlags & {
    readonly qmp?: string;
    readonly pid?: number;
    readonly listen: Address;
    readonly handshakeTimeout: number;
    readonly then: "as-it-was" | "pause";
  };

const EXAMPLE = `
Examples:
  qemu-system-x86_64 ... -incoming defer -qmp unix:/run/new.qmp,server=on,wait=off &
  multifd qemu incoming --qmp /run/new.qmp --listen tcp::4444 --channels 4 --compression zstd

  multifd qemu incoming --listen unix:/run/link --start-like 4711 --ram ram=/dev/shm/new --replace /run/vm.qmp=/run/new.qmp
  multifd qemu incoming --listen tcp::4444 --start-as-source --ram ram=/dev/shm/vm --tls-creds /etc/pki/multifd
  multifd qemu incoming --listen tcp::4444 --start --ram ram=/dev/shm/vm -- qemu-system-x86_64 -m 4G ...`;

export function addQemuIncomingCommand(group: Command, context: CommandContext): void {
  const command = group
    .command("incoming")
    .summary("take a guest in from `qemu migrate`, into a QEMU that waits or is started for it")
    .description(
      "Takes a guest in from `multifd qemu migrate`, into a QEMU that was started like the source's, with RAM in shared " +
        "files of its own and -incoming defer; or starts one, which lives on with the guest. What does not fit is named before " +
        "any RAM moves; after a failure no guest runs here, and a QEMU that was started for it is ended.",
    );
  addStartFlags(command)
    .addOption(new Option("--qmp <path>", "QMP socket of the QEMU that waits; nobody else may be connected to it"))
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
      new Option("--then <what>", "whether the guest runs here; as-it-was: if it ran at the source")
        .choices(["as-it-was", "pause"])
        .default("as-it-was"),
    );
  addRamFlag(command);
  addHandshakeTimeout(addListenTlsFlags(addSharedChannelFlags(command)));
  addOutputFlags(command)
    .addHelpText("after", EXAMPLE)
    .action(async (words: readonly string[], flags: QemuIncomingFlags) => {
      checkTlsFlags(command);
      const wishes = startWishes(command, flags, words);
      await runMigration(context, flags, (watch) =>
        wishes === null ? receive(flags, watch) : receiveStarted(flags, wishes, watch),
      );
    });
}

function receive(flags: QemuIncomingFlags, watch: MigrationWatch) {
  return driveQemu({ qmp: flags.qmp! }, (qmp, meeting) =>
    receiveQemu({
      ...terms(flags, watch),
      qmp,
      meeting,
      ...(flags.pid !== undefined && { pid: flags.pid }),
      ramFiles: flags.ram ?? new Map(),
    }),
  );
}

function receiveStarted(flags: QemuIncomingFlags, wishes: StartWishes, watch: MigrationWatch) {
  return withPrivateFolder(async (folder) => {
    const log = resolve(flags.log ?? join(tmpdir(), `multifd-qemu-${process.pid}-${Date.now()}.log`));
    const job: Terms & Pick<ReceiveQemuJob, "meeting"> = {
      ...terms(flags, watch),
      meeting: { kind: "unix", path: join(folder, "channels") },
    };
    const start = {
      ramFiles: absoluteRamFiles(flags),
      replacements: flags.replace ?? new Map(),
      privateFolder: folder,
      log,
      onChange: watch.note,
    };
    const result =
      wishes.way === "as-source"
        ? await receiveAsSource({ ...job, start: { ...start, ...wishes } })
        : await receiveIntoStarted({ ...job, start: { ...start, ...wishes } });
    watch.note(`QEMU runs on as process ${result.qemuPid}, and writes to ${log}`);
    return result;
  });
}

type Terms = Omit<ReceiveQemuJob, "qmp" | "pid" | "meeting" | "ramFiles">;

function terms(flags: QemuIncomingFlags, { onEvent, signal, warn }: MigrationWatch): Terms {
  return {
    listen: flags.listen,
    terms: {
      channels: flags.channels,
      handshakeTimeoutMs: flags.handshakeTimeout,
      ...listenTls(flags),
    },
    compression: flags.compression,
    stallTimeoutMs: flags.stallTimeout,
    afterwards: flags.then,
    onEvent,
    onWarning: warn,
    signal,
  };
}
