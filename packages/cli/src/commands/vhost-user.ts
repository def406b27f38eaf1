/**
 * `multifd vhost-user`: a back-end's state out and in, and what it writes, from the command line.
 *
 * multifd is the front-end here, and most back-ends serve one: stop the one that
 * has it first. virtiofsd and passt end when the connection does.
 */
import type { Address } from "@multifd/channel";
import { FrontEnd, nameProtocolFeatures } from "@multifd/peer-vhost-user";
import { MigrationError } from "@multifd/protocol";
import { type Command, Option } from "commander";
import { Cancellation } from "../cancellation.js";
import { CONNECT_TIMEOUT_MS } from "../channel-flags.js";
import { GuestSocket } from "../guest-socket.js";
import { guestAddress, milliseconds, wholeNumber } from "../option-values.js";
import type { CommandContext } from "../terminal.js";
import { type DirtyInterval, type MemoryFile, type PlacedRing, watchDirty } from "../vhost-user/dirty-view.js";
import { addBackEndFlag, type BackEndFlags, GuestBackEnds } from "../vhost-user/guest-back-ends.js";
import { features, memoryFile, placedRing } from "../vhost-user/option-values.js";
import { loadStateFile, saveStateFile } from "../vhost-user/state-file.js";

type JsonFlag = { readonly json?: boolean };
type SocketFlags = JsonFlag & { readonly socket: string; readonly replyTimeout: number };
type AttachFlags = JsonFlag & BackEndFlags & { readonly guest: Address };
type StateFlags = SocketFlags & { readonly state: string };
type DirtyLogFlags = SocketFlags & {
  readonly memory: readonly MemoryFile[];
  readonly ring?: readonly PlacedRing[];
  readonly features: bigint;
  readonly interval: number;
  readonly count: number;
};

const VERSION_1 = 1n << 32n;
const INTERVAL_MS = 1000;

const EXAMPLE = `
Examples:
  multifd vhost-user attach --guest unix:/run/guest.sock --vhost-user files=/run/virtiofsd.sock
  multifd vhost-user save --socket /run/virtiofsd.sock --state files.state
  multifd vhost-user load --socket /run/other.sock --state files.state
  multifd vhost-user dirty-log --socket /run/blk.sock --memory 0=/dev/shm/vm.ram --ring 0=128,0x1000,0x2000,0x3000`;

export function addVhostUserCommand(program: Command, context: CommandContext): void {
  const group = program
    .command("vhost-user")
    .summary("a vhost-user back-end's state, and what it writes")
    .description(
      "Saves and loads a vhost-user back-end's own state, shows the pages of guest memory that it writes, or gives " +
        "a guest process the back-ends of its devices.",
    )
    .addHelpText("after", EXAMPLE);

  addSocketFlags(group.command("save").description("Saves a back-end's state into a file."))
    .requiredOption("--state <file>", "where it goes; replaced when the new one is whole")
    .action((flags: StateFlags) =>
      runWithBackEnd(context, flags, async (frontEnd, { signal }) => {
        const bytes = await saveStateFile(frontEnd, flags.state, signal);
        return { text: `${bytes} bytes of state in ${flags.state}`, fields: { bytes } };
      }),
    );

  addSocketFlags(group.command("load").description("Loads a back-end's state out of a file."))
    .requiredOption("--state <file>", "as save wrote it")
    .action((flags: StateFlags) =>
      runWithBackEnd(context, flags, async (frontEnd, { signal }) => {
        const bytes = await loadStateFile(frontEnd, flags.state, signal);
        return { text: `${bytes} bytes of state taken by the back-end`, fields: { bytes } };
      }),
    );

  const attach = group
    .command("attach")
    .description("Connects back-ends to a running guest process's devices, starts them, and hands it the connections.")
    .addOption(
      new Option("--guest <address>", "the guest's control socket, unix:PATH")
        .argParser(guestAddress)
        .makeOptionMandatory(),
    )
    .option("--json", "print one JSON object per event on stdout; the last is completed or failed");
  addBackEndFlag(attach).action((flags: AttachFlags) =>
    tellOutcome(context, flags, async () => {
      const guest = await GuestSocket.connect(flags.guest);
      try {
        (await GuestBackEnds.open(guest, flags.vhostUser ?? new Map())).leave();
      } finally {
        guest.close();
      }
      const devices = [...(flags.vhostUser?.keys() ?? [])];
      return { text: `attached: ${devices.join(", ") || "nothing"}`, fields: { devices } };
    }),
  );

  const dirtyLog = group
    .command("dirty-log")
    .description(
      "Attaches a back-end to memory files and rings, kicks the rings at every interval, and shows the pages " +
        "that it has written. Ctrl-C ends it.",
    );
  addSocketFlags(dirtyLog)
    .addOption(
      new Option("--memory <ADDRESS=PATH>", "a file that holds guest memory from this address on (repeatable)")
        .argParser(memoryFile)
        .makeOptionMandatory(),
    )
    .option(
      "--ring <INDEX=SIZE,DESCRIPTORS,AVAILABLE,USED[,BASE]>",
      "a split virtqueue, in guest addresses (repeatable)",
      placedRing,
    )
    .addOption(
      new Option("--features <bits>", "what the guest's driver agreed on")
        .argParser(features)
        .default(VERSION_1, "0x100000000"),
    )
    .addOption(
      new Option("--interval <ms>", "between two looks").argParser(wholeNumber(1, 3_600_000)).default(INTERVAL_MS),
    )
    .addOption(new Option("--count <n>", "looks, 0 for no end").argParser(wholeNumber(0, 1e9)).default(0))
    .action((flags: DirtyLogFlags) => showDirtyLog(context, flags));
}

function addSocketFlags(command: Command): Command {
  return command
    .requiredOption("--socket <path>", "the back-end's unix socket")
    .addOption(new Option("--reply-timeout <ms>", "for each of its replies").argParser(milliseconds).default(10_000))
    .option("--json", "print one JSON object per event on stdout; the last is completed or failed");
}

async function showDirtyLog(context: CommandContext, flags: DirtyLogFlags): Promise<void> {
  const show = (interval: DirtyInterval) =>
    context.terminal.out(flags.json ? `${JSON.stringify(interval)}\n` : `${intervalText(interval)}\n`);
  await runWithBackEnd(context, flags, async (frontEnd, { signal }) => {
    const terms = {
      features: flags.features,
      memory: flags.memory,
      rings: flags.ring ?? [],
      intervalMs: flags.interval,
      intervals: flags.count,
    };
    const { pages, bases } = await watchDirty(frontEnd, terms, show, signal);
    const stand = bases.map((base, at) => `ring ${terms.rings[at]!.index} at ${base}`).join(", ");
    return { text: `${pages} pages dirtied in all${stand && `; ${stand}`}`, fields: { pages, bases } };
  });
}

function intervalText({ elapsedMs, pages, ranges }: DirtyInterval): string {
  const listed = ranges.map(({ first, last }) => `0x${first.toString(16)}-0x${last.toString(16)}`).join(" ");
  return `${(elapsedMs / 1000).toFixed(1)} s  ${pages} pages  ${listed}`.trimEnd();
}

type Outcome = { readonly text: string; readonly fields: Readonly<Record<string, unknown>> };

/** Connects and acts. */
async function runWithBackEnd(
  context: CommandContext,
  flags: SocketFlags,
  act: (frontEnd: FrontEnd, watch: Watch) => Promise<Outcome>,
): Promise<void> {
  await tellOutcome(context, flags, async (watch) => {
    const { socket: path, replyTimeout: replyTimeoutMs } = flags;
    const frontEnd = await FrontEnd.connect({ path, connectTimeoutMs: CONNECT_TIMEOUT_MS, replyTimeoutMs });
    try {
      const protocolFeatures = nameProtocolFeatures(frontEnd.protocolFeatures);
      watch.say(
        { event: "connected", peer: frontEnd.name, protocolFeatures },
        `${frontEnd.name}: ${protocolFeatures.join(", ")}`,
      );
      return await act(frontEnd, watch);
    } finally {
      frontEnd.close();
    }
  });
}

type Watch = {
  readonly signal: AbortSignal;
  readonly say: (event: Readonly<Record<string, unknown>>, text: string) => void;
};

/** Acts, and says how it went: as JSON on stdout, for people on stderr. */
async function tellOutcome(
  context: CommandContext,
  { json }: JsonFlag,
  act: (watch: Watch) => Promise<Outcome>,
): Promise<void> {
  const { terminal } = context;
  const cancellation = new Cancellation();
  const say: Watch["say"] = (event, text) => {
    if (json) terminal.out(`${JSON.stringify(event)}\n`);
    else terminal.err(`${text}\n`);
  };
  try {
    const { text, fields } = await act({ signal: cancellation.signal, say });
    say({ event: "completed", ...fields }, text);
  } catch (error) {
    context.exitCode = 1;
    const { code, message } = tellFailure(error, cancellation.signal);
    say({ event: "failed", code, message }, `failed: ${message} [${code}]`);
  } finally {
    cancellation.end();
  }
}

function tellFailure(error: unknown, signal: AbortSignal): { readonly code: string; readonly message: string } {
  if (error instanceof MigrationError) return error;
  if (signal.aborted) return { code: "CANCELLED", message: (signal.reason as Error).message };
  throw error;
}
