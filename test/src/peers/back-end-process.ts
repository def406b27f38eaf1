/**
 * Back-end process: one vhost-user back-end of somebody else's, and how it is started.
 *
 *   virtiofsd, passt       of the newer distribution under `.peers/forky`, through its own loader
 *   qemu-storage-daemon    the system's, or the newer one
 *   dpdk-testpmd           the system's
 *
 * virtiofsd and passt serve one connection, so nobody probes their socket: the
 * front-end dials until it is answered. A peer that is missing fails the test that asked, by name.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as after } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { FrontEnd, type FrontEndTerms } from "@multifd/peer-vhost-user";
import { ChannelError } from "@multifd/protocol";

export type BackEndProgram = {
  readonly name: string;
  readonly command: string;
  readonly args: readonly string[];
};

const FORKY = fileURLToPath(new URL("../../../.peers/forky", import.meta.url));
const LIBRARIES = join(FORKY, "usr/lib/x86_64-linux-gnu");
const REMEDY = "run: sh test/peers/setup.sh";
const START_TIMEOUT_MS = 20_000;
const DIAL_AGAIN_MS = 20;
const OUTPUT_CHARACTERS_MAX = 16 * 2 ** 10;

const running = new Set<ChildProcess>();
process.on("exit", () => {
  for (const child of running) child.kill("SIGKILL");
});

function ofForky(name: string, path: string, args: readonly string[]): BackEndProgram {
  const program = join(FORKY, path);
  if (!existsSync(program)) throw new Error(`peer ${name} is not installed (${program}); ${REMEDY}`);
  return {
    name,
    command: join(LIBRARIES, "ld-linux-x86-64.so.2"),
    args: ["--library-path", LIBRARIES, program, ...args],
  };
}

function ofSystem(name: string, path: string, args: readonly string[]): BackEndProgram {
  if (!existsSync(path)) throw new Error(`peer ${name} is not installed (${path}); ${REMEDY}`);
  return { name, command: path, args };
}

/** Two queues: 0 for what cannot wait, 1 for requests. */
export function virtiofsd(socket: string, sharedDir: string, ...more: readonly string[]): BackEndProgram {
  return ofForky("virtiofsd", "usr/libexec/virtiofsd", [
    ...["--socket-path", socket, "--shared-dir", sharedDir, "--sandbox", "none", "--seccomp", "none"],
    ...more,
  ]);
}

export function passt(socket: string): BackEndProgram {
  return ofForky("passt", "usr/bin/passt", ["--vhost-user", "--foreground", "--socket", socket]);
}

/** A vhost-user-blk device over a raw image. */
export function storageDaemon(socket: string, image: string, of: "system" | "forky" = "system"): BackEndProgram {
  const args = [
    ...["--blockdev", `driver=file,node-name=f0,filename=${image}`],
    ...["--export", `type=vhost-user-blk,id=e0,node-name=f0,addr.type=unix,addr.path=${socket},writable=on`],
  ];
  return of === "system"
    ? ofSystem("qemu-storage-daemon", "/usr/bin/qemu-storage-daemon", args)
    : ofForky("qemu-storage-daemon", "usr/bin/qemu-storage-daemon", args);
}

/** A vhost-user-net device with a shell on its standard input. */
export function testpmd(socket: string): BackEndProgram {
  const path = "/usr/bin/dpdk-testpmd";
  // Two threads, wherever the kernel lets them run: one forwards without ever sleeping.
  const machine = ["--lcores", "(0,1)@(0,1)", "--no-shconf", "--no-huge", "-m", "256", "--no-pci", "--no-telemetry"];
  const device = ["--vdev", `net_vhost0,iface=${socket},queues=1`, "--", "-i", "--total-num-mbufs=2048"];
  // Or what it says would stay in its buffer until it ends.
  return { ...ofSystem("dpdk-testpmd", path, []), command: "stdbuf", args: ["-oL", path, ...machine, ...device] };
}

export class BackEndProcess {
  /** Resolves to how it ended, in words. */
  readonly exited: Promise<string>;
  readonly #name: string;
  readonly #child: ChildProcess;
  #hasExited = false;
  #output = "";
  #heard: (() => void)[] = [];

  constructor(program: BackEndProgram) {
    this.#name = program.name;
    this.#child = spawn(program.command, program.args, { stdio: ["pipe", "pipe", "pipe"] });
    running.add(this.#child);
    for (const stream of [this.#child.stdout, this.#child.stderr]) {
      stream?.setEncoding("utf8").on("data", (text: string) => {
        this.#output = (this.#output + text).slice(-OUTPUT_CHARACTERS_MAX);
        for (const wake of this.#heard.splice(0)) wake();
      });
    }
    this.#child.stdin?.on("error", () => {}); // it may be gone before it is spoken to
    this.exited = new Promise((resolve) => {
      this.#child.once("error", (error) => resolve(`did not start: ${error.message}`));
      this.#child.once("close", (code, signal) => resolve(signal ? `ended by ${signal}` : `ended with status ${code}`));
    });
    void this.exited.then(() => {
      this.#hasExited = true;
      running.delete(this.#child);
      for (const wake of this.#heard.splice(0)) wake();
    });
  }

  get output(): string {
    return this.#output;
  }

  /** Types a line into it. */
  type(line: string): void {
    this.#child.stdin?.write(`${line}\n`);
  }

  /** Waits until its output matches. @throws {Error} if it ends, or does not say so in time. */
  async says(pattern: RegExp, timeoutMs = START_TIMEOUT_MS): Promise<RegExpExecArray> {
    const deadline = Date.now() + timeoutMs;
    for (;;) {
      const found = pattern.exec(this.#output);
      if (found) return found;
      if (this.#hasExited || Date.now() > deadline)
        throw new Error(`${this.#name} did not say ${pattern}: ${this.#output}`);
      await Promise.race([new Promise<void>((resolve) => this.#heard.push(resolve)), after(100, null, { ref: false })]);
    }
  }

  /** Waits until it listens, without connecting: it may serve one connection only. */
  async listens(path: string): Promise<void> {
    const deadline = Date.now() + START_TIMEOUT_MS;
    // State 01 of /proc/net/unix with the flag of a listener; the path ends the line.
    while (
      !readFileSync("/proc/net/unix", "utf8")
        .split("\n")
        .some((line) => / 00010000 /.test(line) && line.endsWith(` ${path}`))
    ) {
      if (this.#hasExited || Date.now() > deadline) throw new Error(`${this.#name} does not listen: ${this.#output}`);
      await after(DIAL_AGAIN_MS);
    }
  }

  /** Dials its socket until it answers. */
  async connect(path: string, terms: Partial<FrontEndTerms> = {}): Promise<FrontEnd> {
    const deadline = Date.now() + START_TIMEOUT_MS;
    for (;;) {
      try {
        return await FrontEnd.connect({ path, connectTimeoutMs: 5000, replyTimeoutMs: 10_000, ...terms });
      } catch (error) {
        const early = error instanceof ChannelError && error.code === "CONNECT_FAILED";
        if (!early || this.#hasExited || Date.now() > deadline) {
          throw new Error(`${this.#name}: ${(error as Error).message}; it wrote: ${this.#output}`, { cause: error });
        }
        await after(DIAL_AGAIN_MS);
      }
    }
  }

  /** Ends it at once. May be called again. */
  async stop(): Promise<void> {
    this.#child.kill("SIGKILL");
    await this.exited;
  }
}
