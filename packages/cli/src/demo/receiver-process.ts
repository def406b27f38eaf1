/**
 * Receiver process: `multifd receive --guest … --json` as a child, the demo's other end.
 *
 * Two processes, as in life: nothing is shared but the wire. What the child tells
 * is its JSON lines, read the way any program would read them.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { setTimeout } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { type Address, formatAddress, parseAddress } from "@multifd/channel";
import type { MigrationEvent, MigrationResult } from "@multifd/engine";
import { SystemError } from "@multifd/protocol";
import { endProcess } from "./end-process.js";

export type DemoProtocol = "multifd" | "cloud-hypervisor";

export type ReceiverOptions = {
  readonly protocol: DemoProtocol;
  readonly guest: Address;
  readonly listen: Address;
  readonly channels: number;
  readonly compression: string;
  /** Left out: plain connections. */
  readonly tlsCreds?: string;
};

export class ReceiverProcess {
  /** Where it listens, the port known. */
  readonly address: Address;
  readonly #child: ChildProcess;
  readonly #finished: Promise<MigrationResult>;

  private constructor(address: Address, child: ChildProcess, finished: Promise<MigrationResult>) {
    this.address = address;
    this.#child = child;
    this.#finished = finished;
  }

  /** @throws {SystemError} with the child's own code and message, when it cannot listen. */
  static async start(options: ReceiverOptions): Promise<ReceiverProcess> {
    const main = fileURLToPath(new URL("../main.js", import.meta.url));
    const { protocol, channels, compression } = options;
    const words = protocol === "multifd" ? ["receive"] : ["cloud-hypervisor", "receive"];
    words.push("--json", "--guest", formatAddress(options.guest), "--listen", formatAddress(options.listen));
    if (protocol === "multifd") words.push("--channels", String(channels), "--compression", compression);
    else words.push("--connections", String(channels));
    if (options.tlsCreds !== undefined) words.push("--tls-creds", options.tlsCreds);
    const child = spawn(process.execPath, [main, ...words], { stdio: ["ignore", "pipe", "pipe"], detached: true });

    let complaint = "";
    child.stderr.on("data", (chunk: Buffer) => {
      complaint = (complaint + chunk.toString()).slice(-2000);
    });
    let last: MigrationEvent | null = null;
    let heard: (address: Address) => void = () => {};
    const listening = new Promise<Address>((resolve) => {
      heard = resolve;
    });
    createInterface({ input: child.stdout }).on("line", (line) => {
      last = JSON.parse(line) as MigrationEvent;
      if (last.event === "listening") heard(parseAddress(last.address));
    });
    const finished = new Promise<MigrationResult>((resolve, reject) => {
      child.once("error", reject);
      child.once("close", (code, signal) => {
        if (last?.event === "completed" && code === 0) resolve(last);
        else reject(endedBadly(last, complaint, signal ?? `exit code ${code}`));
      });
    });
    finished.catch(() => {}); // told by whoever awaits it
    const address = await Promise.race([listening, finished.then(() => Promise.reject(new Error("never listened")))]);
    return new ReceiverProcess(address, child, finished);
  }

  /**
   * Waits for the child to have finished and gone.
   *
   * @throws {SystemError} with the child's own code and message.
   */
  finished(): Promise<MigrationResult> {
    return this.#finished;
  }

  /** Why the child failed, in its own words; null when it has not failed `timeoutMs` from now. */
  async reason(timeoutMs: number): Promise<string | null> {
    const patience = new AbortController();
    const failed = this.#finished.then(
      () => null,
      (error: Error) => error.message,
    );
    const timeout = setTimeout(timeoutMs, null, { signal: patience.signal });
    try {
      return await Promise.race([failed, timeout]);
    } finally {
      timeout.catch(() => {}); // given up below
      patience.abort();
    }
  }

  /** Ends the process and waits until it is gone. Idempotent. */
  end(): Promise<void> {
    return endProcess(this.#child);
  }
}

function endedBadly(last: MigrationEvent | null, complaint: string, how: string): SystemError {
  if (last?.event === "failed") return new SystemError(last.code, `destination: ${last.message}`);
  return new SystemError("DESTINATION_PROCESS", `the destination process ended (${how}): ${complaint.trim()}`);
}
