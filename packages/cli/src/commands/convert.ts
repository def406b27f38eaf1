/**
 * `multifd convert`: a snapshot from one form into the other, or written anew in its own.
 *
 * It is a migration from file to file within this process, over a socket that has
 * no name in the file system: so it is parallel, bounded in memory, and checked, like every other.
 * Out of a compressed snapshot frames travel as they are and are decoded at the
 * destination; a compressed snapshot written anew loses its outdated pages.
 */
import { randomUUID } from "node:crypto";
import type { MigrationResult } from "@multifd/engine";
import { runDestination, runSource } from "@multifd/engine";
import { openSnapshot, QemuDestinationPeer, QemuSourcePeer, type Snapshot, storedGuest } from "@multifd/peer-qemu";
import { ChannelError } from "@multifd/protocol";
import { type Command, Option } from "commander";
import { CHANNELS_MAX, CONNECT_TIMEOUT_MS } from "../channel-flags.js";
import type { OutputFlags } from "../event-output.js";
import { addOutputFlags, type MigrationWatch, runMigration } from "../migration-command.js";
import { wholeNumber } from "../option-values.js";
import { addSnapshotFlags, type SnapshotFlags, snapshotWriter } from "../snapshot-flags.js";
import type { CommandContext } from "../terminal.js";

type ConvertFlags = OutputFlags & SnapshotFlags & { readonly channels: number };

const EXAMPLE = `
Example:
  multifd convert vm.mapped-ram vm.snapshot
  multifd convert vm.snapshot smaller.snapshot --form compressed --form-level 9`;

const HANDSHAKE_TIMEOUT_MS = 10_000;

export function addConvertCommand(program: Command, context: CommandContext): void {
  const command = program
    .command("convert")
    .summary("turn a mapped-ram snapshot into a compressed one, or back")
    .description("Writes a snapshot in the other form, or anew in its own.")
    .argument("<in>", "the snapshot")
    .argument("<out>", "where the new one goes; replaced when the new one is whole");
  addSnapshotFlags(command, "the one that IN has not").addOption(
    new Option("--channels <n>", "threads on each side").argParser(wholeNumber(1, CHANNELS_MAX)).default(2),
  );
  addOutputFlags(command)
    .addHelpText("after", EXAMPLE)
    .action(async (path: string, out: string, flags: ConvertFlags) => {
      await runMigration(context, flags, async (watch) => {
        const snapshot = await openSnapshot(path);
        try {
          return await convert(snapshot, out, flags, watch);
        } finally {
          await snapshot.close();
        }
      });
    });
}

async function convert(
  snapshot: Snapshot,
  out: string,
  flags: ConvertFlags,
  { onEvent, signal }: MigrationWatch,
): Promise<MigrationResult> {
  const { channels, formLevel } = flags;
  const form = flags.form ?? (snapshot.form === "compressed" ? "mapped-ram" : "compressed");
  const address = { kind: "unix", path: `@multifd-convert-${randomUUID()}` } as const;
  // Frames cross as they are; pages cross as they are, too, for either is compressed once at most.
  const compression = snapshot.form === "compressed" ? "zstd" : "none";
  const common = { signal, compression, stallTimeoutMs: 0 } as const;
  const peer = await QemuDestinationPeer.listen(address, { channels, handshakeTimeoutMs: HANDSHAKE_TIMEOUT_MS });
  const guest = snapshotWriter(out, form, formLevel);
  const arrival = runDestination({ ...common, guest, peer, onEvent: () => {} });
  const departure = runSource({
    ...common,
    guest: storedGuest(snapshot),
    peer: new QemuSourcePeer({ address, channels, connectTimeoutMs: CONNECT_TIMEOUT_MS }),
    onEvent,
    level: 1,
    devices: snapshot.devices,
    maxBandwidth: 0,
    downtimeLimitMs: 0,
    roundsMax: 1,
    atRoundLimit: "switchover",
  });
  const [departed, arrived] = await Promise.allSettled([departure, arrival]);
  // Whoever found something wrong knows why; the other only saw it go.
  if (arrived.status === "rejected" && !(arrived.reason instanceof ChannelError)) throw arrived.reason;
  if (departed.status === "rejected") throw departed.reason;
  return departed.value;
}
