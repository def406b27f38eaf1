/**
 * `multifd demo`: a live guest, moved between two processes of this machine, and proof.
 *
 *   guest process ── this process ══ channels ══ multifd receive ── guest process
 *   (runs, writes)    (source)                    (destination)      (incoming)
 *
 * The guest dirties its RAM all the while. Afterwards every byte is compared,
 * the guest at the destination checks its own books while it runs, and the
 * downtime is what the guest itself saw between its last write here and its first there.
 *
 * Owns the processes, their sockets and a directory for those; all end with it.
 */
import { randomBytes } from "node:crypto";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Address } from "@multifd/channel";
import { runSource } from "@multifd/engine";
import { runCloudHypervisorSource } from "@multifd/peer-cloud-hypervisor";
import { QemuSourcePeer, type QemuSourceTerms } from "@multifd/peer-qemu";
import { ChannelError, type Compression, ConfigError, ERAS, MigrationError, SystemError } from "@multifd/protocol";
import { type Command, Option } from "commander";
import {
  addDowntimeLimit,
  addSpeedFlags,
  CHANNELS_MAX,
  CONNECT_TIMEOUT_MS,
  checkLevel,
  type SpeedFlags,
} from "../channel-flags.js";
import { liveSource } from "../cloud-hypervisor/guest-process.js";
import { GuestProcess } from "../demo/guest-process.js";
import { type DemoProtocol, ReceiverProcess } from "../demo/receiver-process.js";
import { crossedBytes, type DemoResult, describeDemo } from "../demo/summary.js";
import { verifyMigration } from "../demo/verify.js";
import type { OutputFlags } from "../event-output.js";
import { LiveGuest } from "../live-guest.js";
import { addOutputFlags, type MigrationWatch, runMigration } from "../migration-command.js";
import { byteSize, compression, wholeNumber } from "../option-values.js";
import { formatBytes } from "../quantities.js";
import type { CommandContext } from "../terminal.js";
import { connectTls } from "../tls-flags.js";

type DemoFlags = SpeedFlags &
  OutputFlags & {
    readonly ramBytes: number;
    readonly rate: number;
    readonly workingSet?: number;
    readonly channels: number;
    readonly compression: Compression;
    readonly downtimeLimit: number;
    readonly transport: "unix" | "tcp";
    readonly protocol: DemoProtocol;
    readonly tls?: boolean;
  };

const RAM_MIN = 2 ** 20;
const RAM_MAX = 2 ** 40;
/** What the guest can be asked for. Source: native/guest/guest.h, GUEST_RATE_MAX. */
const RATE_MAX = 50e9;
const ROUNDS_MAX = 30;
const STALL_TIMEOUT_MS = 60_000;
/** How long a failed destination may take to say why. */
const REASON_MS = 2000;

const EXAMPLE = `
Example:
  multifd demo --ram-bytes 4G --rate 500M --channels 2 --compression zstd`;

export function addDemoCommand(program: Command, context: CommandContext): void {
  const command = program
    .command("demo")
    .summary("migrate a live guest between two processes of this machine, and verify it")
    .description(
      "Starts a guest process that keeps dirtying its RAM, migrates it live into another process over real " +
        "channels, compares every byte, and lets the guest check itself while it runs on.",
    )
    .addOption(
      new Option("--ram-bytes <bytes>", "guest RAM").argParser(byteSize(RAM_MIN, RAM_MAX)).default(2 ** 30, "1G"),
    )
    .addOption(
      new Option("--rate <bytes>", "RAM that the guest dirties per second; 0: it does not write")
        .argParser(byteSize(0, RATE_MAX))
        .default(100 * 2 ** 20, "100M"),
    )
    .addOption(
      new Option("--working-set <bytes>", "RAM that is dirtied over and over (default: a quarter of it)").argParser(
        byteSize(RAM_MIN / 4, RAM_MAX),
      ),
    )
    .addOption(new Option("--channels <n>", "packet channels").argParser(wholeNumber(1, CHANNELS_MAX)).default(2))
    .addOption(
      new Option("--compression <method>", "none, zlib, zstd, lz4 or auto").argParser(compression).default("none"),
    )
    .addOption(
      new Option("--transport <kind>", "sockets between the two ends").choices(["unix", "tcp"]).default("unix"),
    )
    .addOption(
      new Option("--protocol <name>", "what the two ends speak; --channels are connections in Cloud Hypervisor's")
        .choices(["multifd", "cloud-hypervisor"])
        .default("multifd"),
    )
    .option("--tls", "encrypt between the two ends, by a key made for this run");
  addDowntimeLimit(addSpeedFlags(command));
  addOutputFlags(command)
    .addHelpText("after", EXAMPLE)
    .action(async (flags: DemoFlags) => {
      checkLevel(command, flags);
      if (flags.protocol === "cloud-hypervisor" && flags.compression !== "none")
        command.error("error: --compression: Cloud Hypervisor's protocol has none");
      if (flags.ramBytes % 4096 !== 0)
        command.error("error: --ram-bytes: the guest's RAM is whole pages of 4096 bytes");
      if (flags.workingSet !== undefined && flags.workingSet > flags.ramBytes) {
        command.error("error: --working-set: larger than the RAM");
      }
      const describe = (result: DemoResult) => describeDemo(result, flags.rate);
      await runMigration(context, flags, (watch) => demonstrate(flags, watch), describe);
    });
}

async function demonstrate(flags: DemoFlags, watch: MigrationWatch): Promise<DemoResult> {
  checkMemory(flags.ramBytes);
  const directory = mkdtempSync(join(tmpdir(), "multifd-demo-"));
  const started: { end(): Promise<void> }[] = [];
  const keep = async <Process extends { end(): Promise<void> }>(starting: Promise<Process>): Promise<Process> => {
    const process = await starting;
    started.push(process);
    if (watch.signal.aborted) throw new ChannelError("CANCELLED", "the demo was cancelled before it began");
    return process;
  };
  try {
    const { ramBytes, rate, workingSet } = flags;
    const path = (name: string) => join(directory, name);
    const incoming = await keep(GuestProcess.start({ socketPath: path("incoming.sock"), ramBytes, incoming: true }));
    const guest = await keep(
      GuestProcess.start({
        socketPath: path("guest.sock"),
        ramBytes,
        rate,
        incoming: false,
        ...(workingSet !== undefined && { workingSetBytes: workingSet }),
      }),
    );
    const listen: Address =
      flags.transport === "tcp"
        ? { kind: "tcp", host: "127.0.0.1", port: 0 }
        : { kind: "unix", path: path("destination.sock") };
    const { channels, compression, protocol } = flags;
    const tls = flags.tls ? { tlsCreds: makeKey(directory) } : {};
    const receiver = await keep(
      ReceiverProcess.start({ protocol, guest: incoming.address, listen, channels, compression, ...tls }),
    );
    return await moveAndVerify(flags, watch, { guest, incoming, receiver, tls });
  } finally {
    await Promise.all(started.map((process) => process.end()));
    rmSync(directory, { recursive: true, force: true });
  }
}

/** RAM stands here twice; a guest that the kernel kills for it would be no demonstration. */
function checkMemory(ramBytes: number): void {
  const available = process.availableMemory();
  if (2 * ramBytes <= available) return;
  throw new ConfigError(
    "DEMO_MEMORY",
    `the demo needs ${formatBytes(2 * ramBytes)} for two guests of ${formatBytes(ramBytes)}, ${formatBytes(available)} are available; choose a smaller --ram-bytes`,
  );
}

/** Writes a new pre-shared key. @returns the directory it is in. */
function makeKey(directory: string): string {
  writeFileSync(join(directory, "keys.psk"), `qemu:${randomBytes(32).toString("hex")}\n`, { mode: 0o600 });
  return directory;
}

type Stage = {
  readonly guest: GuestProcess;
  readonly incoming: GuestProcess;
  readonly receiver: ReceiverProcess;
  readonly tls: { readonly tlsCreds?: string };
};

async function moveAndVerify(flags: DemoFlags, watch: MigrationWatch, stage: Stage): Promise<DemoResult> {
  const source = await LiveGuest.open(stage.guest.address);
  try {
    const sent = await move(flags, watch, source, stage);
    const received = await stage.receiver.finished();
    const { pages } = await verifyMigration(source, stage.incoming, flags.rate > 0);
    return {
      ...sent,
      downtimeMs: received.downtimeMs,
      bytesPerSecond: Math.round((crossedBytes(sent, sent.ramBytes / pages) * 1000) / sent.totalMs),
      destinationCpuSeconds: received.cpuSeconds,
      verifiedPages: pages,
    };
  } finally {
    source.close();
  }
}

async function move(flags: DemoFlags, watch: MigrationWatch, source: LiveGuest, { receiver, tls }: Stage) {
  const send = flags.protocol === "multifd" ? sendMultifd : sendCloudHypervisor;
  try {
    return await send(flags, watch, source, { address: receiver.address, ...connectTls(tls, receiver.address) });
  } catch (error) {
    if (!(error instanceof MigrationError) || watch.signal.aborted) throw error;
    // The destination is our own child: what it says of the failure is worth more than its echo here.
    const reason = await receiver.reason(REASON_MS);
    if (reason === null) throw error;
    throw new SystemError(error.code, `${error.message} [${reason}]`, { cause: error });
  }
}

type Terms = Pick<QemuSourceTerms, "address" | "tls">;

function sendMultifd(flags: DemoFlags, watch: MigrationWatch, guest: LiveGuest, terms: Terms) {
  const { channels, compression, level, downtimeLimit, maxBandwidth } = flags;
  return runSource({
    guest,
    peer: new QemuSourcePeer({ ...terms, channels, compression, connectTimeoutMs: CONNECT_TIMEOUT_MS }),
    onEvent: watch.onEvent,
    signal: watch.signal,
    compression,
    level,
    devices: null,
    downtimeLimitMs: downtimeLimit,
    maxBandwidth,
    roundsMax: ROUNDS_MAX,
    atRoundLimit: "switchover",
    stallTimeoutMs: STALL_TIMEOUT_MS,
  });
}

function sendCloudHypervisor(flags: DemoFlags, watch: MigrationWatch, guest: LiveGuest, terms: Terms) {
  const { channels, downtimeLimit, maxBandwidth } = flags;
  return runCloudHypervisorSource({
    ...terms,
    source: liveSource(guest),
    era: ERAS.v53,
    memory: "stream",
    channels,
    handOver: "resume",
    connectTimeoutMs: CONNECT_TIMEOUT_MS,
    onEvent: watch.onEvent,
    signal: watch.signal,
    downtimeLimitMs: downtimeLimit,
    maxBandwidth,
    roundsMax: ROUNDS_MAX,
    atRoundLimit: "switchover",
    stallTimeoutMs: STALL_TIMEOUT_MS,
  });
}
