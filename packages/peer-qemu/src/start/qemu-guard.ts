/**
 * QEMU guard: a process that ends a QEMU which we have started, should we be killed before its guest is there.
 *
 * A QEMU that waits for a guest would wait for ever, and keep the RAM that has come so far. So a shell waits beside it for a word
 * from us, on a pipe whose other end nobody else has: if the pipe closes before the word comes, we are gone, and
 * QEMU goes too, with all of its session, and its RAM files. Once the guest may run there, nobody may end it any more:
 * the word is said before that, and the shell ends by itself.
 *
 * The guard is there before QEMU is, and learns of it in the next moment, so QEMU is never without. Its own session keeps it
 * from signals that are meant for us.
 */
import { type ChildProcess, spawn } from "node:child_process";
import type { Writable } from "node:stream";
import { SystemError } from "@multifd/protocol";

/** Takes the process of the QEMU, a line, and the word, another; its arguments are files. */
const SCRIPT = 'if read -r qemu && ! read -r word; then kill -s KILL -- "-$qemu"; rm -f -- "$@"; fi';

export class QemuGuard {
  readonly #pipe: Writable;
  #released: Promise<void> | null = null;

  private constructor(shell: ChildProcess) {
    this.#pipe = shell.stdin!;
    this.#pipe.on("error", () => {}); // the guard was ended by somebody: QEMU is without
    shell.unref();
  }

  /**
   * Starts a guard that knows of no QEMU yet.
   *
   * @param files  Removed with QEMU, by their absolute paths.
   * @throws {SystemError} GUARD_NOT_STARTED.
   */
  static start(files: readonly string[]): QemuGuard {
    const shell = spawn("/bin/sh", ["-c", SCRIPT, "multifd-qemu-guard", ...files], {
      cwd: "/",
      detached: true,
      stdio: ["pipe", "ignore", "ignore"],
    });
    shell.on("error", () => {}); // told here
    if (shell.pid === undefined) {
      throw new SystemError("GUARD_NOT_STARTED", "/bin/sh cannot be run, which is to guard the QEMU that is started");
    }
    return new QemuGuard(shell);
  }

  /** @param qemu  Leader of a session of its own, whose end the caller waits for. */
  watch(qemu: number): void {
    this.#pipe.write(`${qemu}\n`);
  }

  /** Resolves when our death ends nothing any more. Never rejects; may be called again. */
  release(): Promise<void> {
    this.#released ??= new Promise((resolve) => this.#pipe.end("released\n", () => resolve()));
    return this.#released;
  }
}
