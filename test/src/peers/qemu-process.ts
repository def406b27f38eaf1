/**
 * QEMU process: one VM of one QEMU version, driven over QMP.
 *
 * Guest RAM is a shared file, so a test compares bytes without asking QEMU. A
 * guest started paused leaves that file exactly as the test prepared it (tried
 * with 7.2 and 11.1, `pc` and `q35`: firmware and option ROMs lie in RAM blocks
 * of their own). Once it runs, the firmware writes below 1 MiB and into the last
 * 512 KiB below 4 GiB or the end of RAM: compare with the source's file after the
 * migration, not with the image it was made from.
 *
 * QEMU dials our QMP socket, not we its, so that start waits for the connection
 * or for QEMU's end, whichever comes first. Owns the process, its directory and
 * its QMP client, not the RAM files; all of it ends with this process at the latest.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { truncateSync, writeFileSync } from "node:fs";
import { createServer, type Socket } from "node:net";
import { setTimeout as after } from "node:timers/promises";
import { QmpClient } from "@multifd/peer-qemu";
import { ChannelError } from "@multifd/protocol";
import { findQemu, type QemuVersion } from "./qemu-binary.js";
import { bootDisk, type QemuOptions, qemuArguments, qmpSocket } from "./qemu-command-line.js";
import { createScratchDir, removeScratchDir } from "./scratch-dir.js";

export type MigrationSetup = {
  /** multifd channels; 0 leaves multifd off. */
  readonly channels: number;
  readonly compression?: "none" | "zlib" | "zstd";
  readonly level?: number;
  /** Bytes a second; as good as unlimited unless given. */
  readonly maxBandwidth?: number;
  readonly downtimeLimitMs?: number;
  /** On top of `events` and `return-path`, which are on unless switched off here. */
  readonly capabilities?: Readonly<Record<string, boolean>>;
  readonly parameters?: Readonly<Record<string, unknown>>;
};

/** What `query-migrate` said when the migration had ended. */
export type MigrationOutcome = {
  readonly status: "completed" | "failed" | "cancelled";
  readonly error: string | null;
  readonly info: Readonly<Record<string, unknown>>;
};

const START_TIMEOUT_MS = 20_000;
const MIGRATION_TIMEOUT_MS = 50_000;
/** The firmware cannot read an AHCI disk that is smaller than its first cylinder. */
const BOOT_DISK_BYTES = 2 ** 20;
const EXIT_WAIT_MS = 2_000;
const LEAVE_TIMEOUT_MS = 10_000;
const LEAVE_POLL_MS = 10;
const STDERR_CHARACTERS_MAX = 16 * 2 ** 10;
/** Above the 0 that means "unlimited" since 8.1 only, and below every version's upper bound. */
const AS_GOOD_AS_UNLIMITED = 2 ** 40;

const running = new Set<ChildProcess>();
process.on("exit", () => {
  for (const child of running) child.kill("SIGKILL");
});

export class QemuProcess {
  /** Holds the VM's sockets and boot disk; tests may put theirs there. */
  readonly dir: string;
  readonly version: QemuVersion;
  /** Resolves to how QEMU ended, in words, once it has. */
  readonly exited: Promise<string>;
  readonly #child: ChildProcess;
  #qmp: QmpClient | null = null;
  #stderr = "";

  private constructor(options: QemuOptions, dir: string) {
    this.dir = dir;
    this.version = options.version;
    const { command, args } = findQemu(options.version);
    const child = spawn(command, [...args, ...qemuArguments(options, dir)], {
      stdio: ["ignore", "ignore", "pipe"],
      env: { ...process.env, ...options.env },
    });
    running.add(child);
    child.stderr.setEncoding("utf8").on("data", (text: string) => {
      this.#stderr = (this.#stderr + text).slice(-STDERR_CHARACTERS_MAX);
    });
    this.exited = new Promise((resolve) => {
      child.once("error", (error) => resolve(`did not start: ${error.message}`));
      child.once("close", (code, signal) => resolve(signal ? `ended by ${signal}` : `ended with status ${code}`));
    });
    void this.exited.then(() => running.delete(child));
    this.#child = child;
  }

  /**
   * Starts a VM and resolves when it takes commands.
   *
   * @throws {Error} if the peer is not installed, or QEMU ends at once; with what it wrote to stderr.
   */
  static async start(options: QemuOptions): Promise<QemuProcess> {
    findQemu(options.version);
    const dir = createScratchDir("disk");
    if (options.bootSector) {
      writeFileSync(bootDisk(dir), options.bootSector);
      truncateSync(bootDisk(dir), BOOT_DISK_BYTES);
    }
    const server = createServer();
    const dialled = new Promise<Socket>((resolve) => server.once("connection", resolve));
    await new Promise<void>((resolve, reject) => {
      server.once("error", reject);
      server.listen(qmpSocket(dir), resolve);
    });
    const vm = new QemuProcess(options, dir);
    const timer = setTimeout(() => vm.#child.kill("SIGKILL"), START_TIMEOUT_MS);
    try {
      const socket = await Promise.race([dialled, vm.exited]);
      if (typeof socket === "string") throw new Error(`QEMU ${socket}`);
      vm.#qmp = await QmpClient.attach(socket, `QMP of QEMU ${options.version}`);
      return vm;
    } catch (cause) {
      const error = await vm.#explain("start", cause);
      await vm.stop();
      throw error;
    } finally {
      clearTimeout(timer);
      server.close();
    }
  }

  get pid(): number {
    return this.#child.pid ?? -1;
  }

  /** What QEMU wrote to stderr so far, its last 16 KiB. */
  get stderr(): string {
    return this.#stderr;
  }

  get qmp(): QmpClient {
    if (!this.#qmp) throw new Error("QEMU has not started yet");
    return this.#qmp;
  }

  /** Runs a QMP command; an error tells how QEMU ended and what it wrote. */
  async execute(command: string, args: Readonly<Record<string, unknown>> = {}): Promise<unknown> {
    try {
      return await this.qmp.execute(command, args);
    } catch (cause) {
      throw await this.#explain(command, cause);
    }
  }

  /** Sets capabilities and parameters; on a destination before `listen`. */
  async setMigration(setup: MigrationSetup): Promise<void> {
    const { channels, compression = "none", level } = setup;
    const capabilities = { events: true, "return-path": true, multifd: channels > 0, ...setup.capabilities };
    await this.execute("migrate-set-capabilities", {
      capabilities: Object.entries(capabilities).map(([capability, state]) => ({ capability, state })),
    });
    await this.execute("migrate-set-parameters", {
      "max-bandwidth": setup.maxBandwidth ?? AS_GOOD_AS_UNLIMITED,
      ...(channels > 0 ? { "multifd-channels": channels, "multifd-compression": compression } : {}),
      ...(level === undefined || compression === "none" ? {} : { [`multifd-${compression}-level`]: level }),
      ...(setup.downtimeLimitMs === undefined ? {} : { "downtime-limit": setup.downtimeLimitMs }),
      ...setup.parameters,
    });
  }

  /** Opens the address of a VM started with `incoming: "defer"`. */
  async listen(uri: string): Promise<void> {
    await this.execute("migrate-incoming", { uri });
  }

  /** Starts migrating to an address and resolves when QEMU has begun; `waitMigration` waits for the end. */
  async migrateTo(uri: string): Promise<void> {
    await this.#throughWithLastMigration();
    await this.execute("migrate", { uri });
  }

  /**
   * QEMU says `failed` when a channel breaks, and its migration thread hears of that later. A 7.2 that is told to
   * migrate in between never can again ("duplicate yank instance"); so the last one must have gone from its list.
   */
  async #throughWithLastMigration(): Promise<void> {
    const deadline = Date.now() + LEAVE_TIMEOUT_MS;
    const isListed = async () =>
      ((await this.execute("query-yank")) as readonly { readonly type: string }[]).some(
        (one) => one.type === "migration",
      );
    while (await isListed()) {
      if (Date.now() > deadline) throw new Error(`QEMU ${this.version}: its last migration does not come to an end`);
      await after(LEAVE_POLL_MS);
    }
  }

  /**
   * Waits for the end of a migration, in or out. Needs the capability `events`.
   *
   * QEMU's answer to a query is the truth; events only say when to ask again.
   *
   * @throws {Error} if QEMU ends meanwhile, as a destination of 9.1 or newer does when it fails.
   */
  async waitMigration(timeoutMs = MIGRATION_TIMEOUT_MS): Promise<MigrationOutcome> {
    const deadline = Date.now() + timeoutMs;
    const ended = (data: Readonly<Record<string, unknown>>) => toOutcome(data) !== null;
    for (;;) {
      const outcome = toOutcome((await this.execute("query-migrate")) as Record<string, unknown>);
      if (outcome) return outcome;
      try {
        await this.qmp.waitForEvent("MIGRATION", ended, Math.max(1, deadline - Date.now()));
      } catch (cause) {
        throw await this.#explain("waiting for the migration's end", cause);
      }
    }
  }

  /** The run state by QMP's name: `running`, `paused`, `postmigrate`, … */
  async runState(): Promise<string> {
    const { status } = (await this.execute("query-status")) as { status: string };
    return status;
  }

  /** Ends QEMU at once and removes its directory; the RAM files stay. May be called again. */
  async stop(): Promise<void> {
    this.#child.kill("SIGKILL");
    await this.exited;
    this.#qmp?.close();
    removeScratchDir(this.dir);
  }

  /** Puts QEMU's own words to an error; when the QMP socket broke, how QEMU ended is worth a moment's wait. */
  async #explain(doing: string, cause: unknown): Promise<Error> {
    const reason = cause instanceof Error ? cause.message : String(cause);
    const closed = cause instanceof ChannelError && cause.code === "QMP_CLOSED";
    const state = closed ? await Promise.race([this.exited, after(EXIT_WAIT_MS, "still runs", { ref: false })]) : null;
    const wrote = this.#stderr.trim() || "nothing";
    const suffix = `${state ? `QEMU ${state}; ` : ""}stderr: ${wrote}`;
    return new Error(`QEMU ${this.version}, ${doing}: ${reason}; ${suffix}`, { cause });
  }
}

/** An ended migration's outcome; null for one that goes on. Takes a query's answer or an event's data. */
function toOutcome(info: Readonly<Record<string, unknown>>): MigrationOutcome | null {
  const { status } = info as { status?: string };
  if (status !== "completed" && status !== "failed" && status !== "cancelled") return null;
  const error = info["error-desc"];
  return { status, error: typeof error === "string" ? error : null, info };
}
