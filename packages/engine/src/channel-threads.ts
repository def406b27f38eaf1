/**
 * Channel threads: one long-lived Piscina task per channel.
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
import type { ChannelResult, ReceiveTask, SendTask } from "@multifd/dataplane";
import { reviveError } from "@multifd/protocol";
import { Piscina } from "piscina";

export class ChannelThreads {
  readonly #pool: Piscina;
  readonly #channels: readonly Channel[];
  #running: Promise<void>[] = [];

  constructor(entry: "send-channel" | "receive-channel", channels: readonly Channel[]) {
    this.#channels = channels;
    this.#pool = new Piscina({
      filename: fileURLToPath(import.meta.resolve(`@multifd/workers/${entry}`)),
      minThreads: channels.length,
      maxThreads: channels.length,
      concurrentTasksPerWorker: 1,
    });
  }

  /** Starts a task per channel. @param fail  Called with what ends a channel in error. */
  start(tasks: readonly (SendTask | ReceiveTask)[], fail: (error: unknown) => void): void {
    this.#running = tasks.map(async (task) => {
      try {
        const transferList: MessagePort[] = "devices" in task ? [task.devices] : [];
        const result = (await this.#pool.run(task, { transferList })) as ChannelResult;
        if (!result.ok) fail(reviveError(result.error));
      } catch (error) {
        fail(error);
      }
    });
  }

  /** Resolves when every channel has ended of itself. */
  async ended(): Promise<void> {
    await Promise.all(this.#running);
  }

  /** Wakes whoever is blocked on a socket. What waits in shared memory must have been told before. */
  shutDown(): void {
    for (const channel of this.#channels) channel.shutDown();
  }

  /** After `shutDown`, or when all is sent: waits for every thread, then frees sockets and threads. */
  async close(): Promise<void> {
    await this.ended();
    for (const channel of this.#channels) channel.close();
    await this.#pool.destroy();
  }
}
