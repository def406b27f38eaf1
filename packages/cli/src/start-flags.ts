/**
 * Start flags: how `qemu incoming` comes to its QEMU, if it is to start one.
 *
 * The command line is typed behind `--`, taken from a QEMU that runs here, or told by the source; what a network says
 * is run on a word of its own only (`--start-as-source`), and never its program. The program that is
 * started may be another than the source's, such as a newer QEMU.
 */
import { resolve } from "node:path";
import { type QemuLine, readRunningLine, type StartTerms, splitCommandLine } from "@multifd/peer-qemu";
import { type Command, InvalidArgumentError, Option } from "commander";
import { processId, ramFile } from "./option-values.js";

export type StartFlags = {
  readonly start?: true;
  readonly startLike?: number;
  readonly startAsSource?: true;
  readonly ram?: ReadonlyMap<string, string>;
  readonly replace?: ReadonlyMap<string, string>;
  readonly log?: string;
};

/** With which line, and where it stands; or with which program, and the source's options. */
export type StartWishes =
  | ({ readonly way: "line" } & Pick<StartTerms, "line" | "folder" | "preloaded" | "machineType">)
  | { readonly way: "as-source"; readonly program: readonly string[]; readonly folder: string };

export function addStartFlags(command: Command): Command {
  return command
    .argument("[command...]", "behind --: QEMU's command line (--start), or the program to start instead")
    .addOption(new Option("--start", "start QEMU by the command line behind --, adjusted to wait for the guest"))
    .addOption(
      new Option(
        "--start-like <pid>",
        "start QEMU as one that runs on this machine; with a program behind --, that",
      ).argParser(processId),
    )
    .addOption(
      new Option(
        "--start-as-source",
        "start QEMU with the options that the source tells, of a host and network that you trust: they can name any file here; with the program behind -- (default: qemu-system-… of its architecture)",
      ),
    )
    .addOption(
      new Option("--replace <old=new...>", "text to replace in the command line: a socket, a port, a file").argParser(
        replacement,
      ),
    )
    .addOption(
      new Option("--log <path>", "where a QEMU that is started writes to (default: a file in the temporary folder)"),
    );
}

/** Collects `OLD=NEW`, any number of them. */
function replacement(text: string, previous: ReadonlyMap<string, string> | undefined): ReadonlyMap<string, string> {
  const at = text.indexOf("=");
  if (at < 1) throw new InvalidArgumentError("Write OLD=NEW, such as /run/vm.qmp=/run/new.qmp.");
  return new Map([...(previous ?? []), [text.slice(0, at), text.slice(at + 1)]]);
}

/**
 * Ends the command unless its flags name one QEMU.
 *
 * @returns How to start it; null where it waits already.
 */
export function startWishes(
  command: Command,
  flags: StartFlags & { readonly qmp?: string; readonly pid?: number },
  words: readonly string[],
): StartWishes | null {
  const ways = [flags.qmp, flags.start, flags.startLike, flags.startAsSource].filter((way) => way !== undefined).length;
  if (ways !== 1)
    command.error("error: name one QEMU: --qmp PATH, or --start, --start-like PID or --start-as-source to start one");
  if (flags.qmp !== undefined) {
    if (words.length === 0 && flags.replace === undefined && flags.log === undefined) return null;
    command.error("error: a command line, --replace and --log are for a QEMU that is started");
  }
  if (flags.pid !== undefined)
    command.error("error: --pid is of a QEMU that runs already; to start one like it: --start-like");
  if (flags.startAsSource) return { way: "as-source", program: words, folder: process.cwd() };
  if (flags.startLike !== undefined) return likeRunning(flags.startLike, words);
  if (words.length === 0) command.error("error: --start needs QEMU's command line behind --");
  return { way: "line", line: splitCommandLine(words), folder: process.cwd(), preloaded: false, machineType: null };
}

function likeRunning(pid: number, program: readonly string[]): StartWishes {
  const { words, folder, preloaded } = readRunningLine(pid);
  const { program: own, options } = splitCommandLine(words);
  const line: QemuLine = { program: program.length === 0 ? own : program, options };
  return { way: "line", line, folder, preloaded, machineType: null };
}

/** The RAM files of a QEMU that stands in a folder of its own. */
export function absoluteRamFiles({ ram }: StartFlags): ReadonlyMap<string, string> {
  return new Map([...(ram ?? [])].map(([block, path]) => [block, resolve(path)]));
}

export function addRamFlag(command: Command): Command {
  return command.addOption(
    new Option(
      "--ram <block=path...>",
      "a RAM block's file: what a QEMU that is started gets as its own; or where one that waits has it, and we may not look at its descriptors",
    ).argParser(ramFile),
  );
}
