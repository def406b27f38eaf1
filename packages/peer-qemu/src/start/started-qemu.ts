/**
 * Started QEMU: a destination that is started for one guest, and lives on with it.
 *
 *   adjust the command line ─ start ─ QEMU dials us ─▶ waits for a guest ─ leave: it is nobody's child any more
 *                                                                       └ end: it goes, and its RAM files with it
 *
 * It dials our monitor socket when it is ready for commands, so that its readiness or its end is an event, and no
 * socket of ours is left in it. It has a session of its own, and what it writes goes to a log file: a signal to us is none
 * to it. Owns the process and its RAM files until `release`: should we be killed before, a guard ends both.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { closeSync, existsSync, openSync, readFileSync, rmSync } from "node:fs";
import { createServer, type Socket } from "node:net";
import { join } from "node:path";
import { preloadLibrary } from "@multifd/native";
import { ConfigError } from "@multifd/protocol";
import { QmpClient } from "../qmp-client.js";
import { adjustOptions } from "./adjusted-options.js";
import { viewHost } from "./host-view.js";
import { QemuGuard } from "./qemu-guard.js";
import { joinOptions, type QemuLine } from "./qemu-options.js";

export type StartTerms = {
  /** The source's command line, with the program that is to be started. */
  readonly line: QemuLine;
  /** What its relative paths begin at. */
  readonly folder: string;
  /** Whether it is to have the preload library, for its RAM files. */
  readonly preloaded: boolean;
  /** As in `OptionTerms`. */
  readonly machineType: string | null;
  /** RAM files by the id of the memory backend, by absolute paths; made by QEMU unless they are there. */
  readonly ramFiles: ReadonlyMap<string, string>;
  readonly replacements: ReadonlyMap<string, string>;
  /** A private folder, for the socket that QEMU dials. */
  readonly privateFolder: string;
  /** Where QEMU's stdout and stderr go; must not exist. */
  readonly log: string;
  /** What was changed in the command line, a sentence each. */
  readonly onChange: (text: string) => void;
};

/** Shorter than a source waits for a destination to agree. */
const START_MS = 20_000;
const QUIT_MS = 3000;
const LOG_CHARACTERS_MAX = 2000;

export class StartedQemu {
  readonly qmp: QmpClient;
  readonly pid: number;
  readonly #child: ChildProcess;
  readonly #exited: Promise<string>;
  readonly #guard: QemuGuard;
  readonly #terms: StartTerms;

  private constructor(
    child: ChildProcess,
    exited: Promise<string>,
    guard: QemuGuard,
    qmp: QmpClient,
    terms: StartTerms,
  ) {
    this.#child = child;
    this.#guard = guard;
    this.#exited = exited;
    this.qmp = qmp;
    this.pid = child.pid!;
    this.#terms = terms;
  }

  /**
   * Starts a QEMU that waits for its guest, and resolves when it takes commands.
   *
   * @throws {ConfigError} as `adjustOptions`; QEMU_NOT_STARTED, with QEMU's own words. Nothing is left then.
   */
  static async start(terms: StartTerms): Promise<StartedQemu> {
    const monitor = join(terms.privateFolder, "monitor");
    const { ramFiles, replacements, machineType } = terms;
    const optionTerms = { monitor, ramFiles, replacements, machineType };
    const { options, changes } = adjustOptions(terms.line.options, optionTerms, viewHost(terms.folder));
    for (const text of changes) terms.onChange(text);
    const output = openLog(terms.log);
    const server = createServer();
    const dialled = new Promise<Socket>((resolve) => server.once("connection", resolve));
    try {
      await new Promise<void>((resolve, reject) => {
        server.once("error", reject);
        server.listen(monitor, resolve);
      });
      return await StartedQemu.#launch(terms, joinOptions(options), output, dialled);
    } catch (error) {
      removeFiles(terms);
      throw error;
    } finally {
      server.close();
    }
  }

  /** Takes `output` over. */
  static async #launch(
    terms: StartTerms,
    options: readonly string[],
    output: number,
    dialled: Promise<Socket>,
  ): Promise<StartedQemu> {
    const { child, guard } = launch(terms, options, output);
    const exited = new Promise<string>((resolve) => {
      child.once("error", (error) => resolve(`it could not be run: ${error.message}`));
      child.once("exit", (code, signal) => resolve(`it ended (${signal ?? `status ${code}`})`));
    });
    void exited.then(() => guard.release()); // its number may soon be another's
    const slow = setTimeout(() => endGroup(child), START_MS);
    try {
      const socket = await Promise.race([dialled, exited]);
      if (typeof socket === "string") throw notStarted(terms, socket);
      const greeted = QmpClient.attach(socket, `QMP of the QEMU that was started (process ${child.pid})`);
      const qmp = await greeted.catch(async (error: unknown) => {
        endGroup(child); // it has no command to take, or is ending: its devices are made after its monitor
        throw notStarted(terms, `${await exited}, ${(error as Error).message}`);
      });
      return new StartedQemu(child, exited, guard, qmp, terms);
    } catch (error) {
      endGroup(child);
      await exited;
      throw error;
    } finally {
      clearTimeout(slow);
    }
  }

  /** The guest is about to be here, and may be nowhere else: resolves when our death does not end it any more. */
  release(): Promise<void> {
    return this.#guard.release();
  }

  /** Lets it live on without us. */
  async leave(): Promise<void> {
    await this.release();
    this.#child.unref();
    this.qmp.close();
  }

  /** Ends it, and removes its RAM files. Never rejects. */
  async end(): Promise<void> {
    const slow = setTimeout(() => endGroup(this.#child), QUIT_MS);
    await this.qmp.execute("quit", {}, QUIT_MS).catch(() => {}); // it has ended before, or is killed
    await this.#exited;
    clearTimeout(slow);
    this.qmp.close();
    removeFiles(this.#terms);
  }
}

/** @throws {ConfigError} FILE_IN_USE. */
function openLog(path: string): number {
  try {
    return openSync(path, "wx", 0o600);
  } catch (cause) {
    throw new ConfigError(
      "FILE_IN_USE",
      `QEMU's log ${path} cannot be made: ${(cause as Error).message}; name another (--log)`,
      { cause },
    );
  }
}

/** Takes `output` over. */
function launch({ line, folder, preloaded, ramFiles }: StartTerms, options: readonly string[], output: number) {
  const [command = "", ...words] = line.program;
  const tracking = { LD_PRELOAD: preloadLibrary, MULTIFD_TRACK: [...ramFiles.values()].join(":") };
  try {
    const guard = QemuGuard.start([...ramFiles.values()]);
    const child = spawn(command, [...words, ...options], {
      cwd: folder,
      detached: true,
      stdio: ["ignore", output, output],
      env: { ...process.env, ...(preloaded ? tracking : {}) },
    });
    if (child.pid !== undefined) guard.watch(child.pid);
    return { child, guard };
  } finally {
    closeSync(output);
  }
}

function notStarted({ log }: StartTerms, ended: string): ConfigError {
  const words = readFileSync(log, "utf8").trim().slice(-LOG_CHARACTERS_MAX).replaceAll("\n", "; ");
  return new ConfigError(
    "QEMU_NOT_STARTED",
    `the destination's QEMU did not start, ${ended}${words === "" ? "" : `: ${words}`}; what two QEMUs cannot share is replaced with --replace OLD=NEW, and another program is named behind --`,
  );
}

/** All that it has started in its session. */
function endGroup({ pid }: ChildProcess): void {
  if (pid === undefined) return;
  try {
    process.kill(-pid, "SIGKILL");
  } catch {
    // It has ended.
  }
}

/** What was made for this QEMU: its RAM files, and its log, whose words are told. */
function removeFiles({ ramFiles, log }: StartTerms): void {
  for (const path of [...ramFiles.values(), log]) rmSync(path, { force: true });
}

/** @throws {ConfigError} RAM_FILE_IN_USE, where a file that a QEMU is to make is there. */
export function refuseExisting(ramFiles: ReadonlyMap<string, string>): void {
  for (const [id, path] of ramFiles) {
    if (!existsSync(path)) continue;
    throw new ConfigError(
      "RAM_FILE_IN_USE",
      `RAM block "${id}": ${path} is there already, and may be another QEMU's; remove it, or name another (--ram ${id}=PATH)`,
    );
  }
}
