/**
 * Channel threads: one long-lived Piscina task per channel.
 *
 * Threads are started before anything crosses, and each loads one file, into which the build
 * bundles all that it runs: file by file it took 90 ms of CPU per thread more (bench/README.md).
 *
 * A pool exactly as large as the migration has channels, for a task blocks its
 * thread until the channel ends: with one thread less the last channel would
 * never start and every sync would wait for it. A thread is never terminated,
 * since it may be inside a native call; the owner shuts the sockets down, stops
 * the ring or the barrier, and waits here until all have returned.
 */
import { fileURLToPath } from "node:url";
import type { MessagePort } from "node:worker_threads";
import type { Channel } from "@multifd/channel";
import {
  type ChannelResult,
  dismissMuster,
  type MusterTask,
  type ReceiveTask,
  type RelayReceiveTask,
  type RelaySendTask,
  type SaveTask,
  type SendTask,
} from "@multifd/dataplane";
import { reviveError } from "@multifd/protocol";
import { Piscina } from "piscina";
import { explainFailure } from "./channel-failure.js";

export class ChannelThreads {
  readonly #pool: Piscina;
  #channels: readonly Channel[] = [];
  #running: readonly Promise<void>[] = [];
  readonly #muster: readonly Promise<void>[];
  #closing: Promise<void> | null = null;

  /** Starts the threads; what they are to do comes with `start`. */
  constructor(entry: "send-channel" | "receive-channel" | "relay-channel" | "save-channel", threads: number) {
    this.#pool = new Piscina({
      filename: fileURLToPath(import.meta.resolve(`@multifd/workers/${entry}`)),
      minThreads: threads,
      maxThreads: threads,
      concurrentTasksPerWorker: 1,
    });
    const muster: MusterTask = { present: new SharedArrayBuffer(4), threads };
    this.#muster = Array.from({ length: threads }, async () => {
      try {
        await this.#pool.run(muster);
      } catch {
        dismissMuster(muster); // the channel's own task will meet the same error and tell it
      }
    });
  }

  /** Resolves when every thread stands ready, or has failed to: its channel tells why, once it is started. */
  async ready(): Promise<void> {
    await Promise.all(this.#muster);
  }

  /**
   * Starts a task per channel.
   *
   * @param channels  Borrowed by the tasks, owned from here on; none where nothing crosses a wire.
   * @param fail      Called with what ends a channel in error.
   */
  start(
    channels: readonly Channel[],
    tasks: readonly (SendTask | ReceiveTask | RelayReceiveTask | RelaySendTask | SaveTask)[],
    fail: (error: unknown) => void,
  ): void {
    this.#channels = channels;
    this.#running = tasks.map(async (task) => {
      try {
        const transferList: MessagePort[] = "devices" in task ? [task.devices] : [];
        const result = (await this.#pool.run(task, { transferList })) as ChannelResult;
        if (!result.ok) fail(await explainFailure(channels[task.channel], task.channel, reviveError(result.error)));
      } catch (error) {
        fail(error);
      }
    });
  }

  /** Wakes whoever is blocked on a socket. What waits in shared memory must have been told before. */
  shutDown(): void {
    for (const channel of this.#channels) channel.shutDown();
  }

  /** After `shutDown`, or when all is sent: waits for every thread, then frees sockets and threads. Idempotent. */
  close(): Promise<void> {
    this.#closing ??= this.#end();
    return this.#closing;
  }

  async #end(): Promise<void> {
    await Promise.all([...this.#muster, ...this.#running]);
    for (const channel of this.#channels) channel.close();
    await this.#pool.destroy();
  }
}
