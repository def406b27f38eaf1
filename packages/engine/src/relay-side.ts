/**
 * Relay side: the channels, threads and counters of one of a relay's two sides.
 *
 * Owns the channels from the moment they are set; coordinator thread only.
 */
import type { Channel } from "@multifd/channel";
import {
  type ChannelTotals,
  createCounters,
  type RelayReceiveTask,
  type RelaySendTask,
  sumCounters,
} from "@multifd/dataplane";
import { ChannelThreads } from "./channel-threads.js";

/** What of a task is the side's own to say. */
export type SideOfTask = Pick<RelaySendTask, "channel" | "descriptor" | "counters">;

export class RelaySide {
  channels: readonly Channel[] = [];
  readonly #counters: SharedArrayBuffer;
  readonly #threads: ChannelThreads;

  /** Starts the threads; what they are to do comes with `start`. */
  constructor(channels: number) {
    this.#counters = createCounters(channels);
    this.#threads = new ChannelThreads("relay-channel", channels);
  }

  /** Starts a task per channel. @param fail  Called with what ends a channel in error. */
  start(toTask: (own: SideOfTask) => RelayReceiveTask | RelaySendTask, fail: (error: unknown) => void): void {
    const counters = this.#counters;
    const tasks = this.channels.map(({ descriptor }, channel) => toTask({ channel, descriptor, counters }));
    this.#threads.start(this.channels, tasks, fail);
  }

  get totals(): ChannelTotals {
    return sumCounters(this.#counters);
  }

  /** Wakes whoever is blocked on a socket; nothing more crosses. */
  shutDown(): void {
    for (const channel of this.channels) channel.shutDown();
  }

  /** No thread waits for anything any more: waits for them to return, then frees sockets and threads. */
  async close(): Promise<void> {
    await this.#threads.close();
    for (const channel of this.channels) channel.close(); // those that no thread was started for
  }
}
