/**
 * Source channels: the main one and the additional ones, and what goes over them.
 *
 * The main channel comes first and carries one command at a time; additional channels are opened behind
 * Config, each introduced as its era wants, and share a table's chunks: whichever is free takes the next.
 * A table is sent when every part of it has been answered.
 *
 * Owns the channels and, unless they were given, their threads.
 */
import { createCounters, sumCounters } from "@multifd/dataplane";
import { type Attempt, type RangeThread, RangeThreads, type SourceGuest } from "@multifd/engine";
import {
  CHUNK_BYTES,
  CONNECTIONS_MAX,
  type CommandName,
  encodeConnectionRole,
  encodeRequest,
  type MemoryRangeTable,
  partitionRanges,
} from "@multifd/protocol";
import { connectChannels } from "./connect.js";
import { awaitAnswer, sendMemory } from "./exchange.js";
import type { MemoryMap } from "./memory-map.js";
import type { CloudHypervisorSourceJob } from "./source-job.js";

const MAIN = 0;

export class SourceChannels {
  readonly #job: CloudHypervisorSourceJob;
  readonly #map: MemoryMap;
  readonly #ram: SourceGuest["ram"];
  readonly #attempt: Attempt;
  readonly #counters = createCounters(CONNECTIONS_MAX + 2);
  readonly #threads: RangeThreads;
  /** Main channel first. */
  readonly #open: RangeThread[] = [];
  /** The command under way on the main channel, or the last one. */
  #exchange: Promise<unknown> = Promise.resolve();

  /** @param ram  As the map's blocks. */
  constructor(job: CloudHypervisorSourceJob, map: MemoryMap, ram: SourceGuest["ram"], attempt: Attempt) {
    this.#job = job;
    this.#map = map;
    this.#ram = ram;
    this.#attempt = attempt;
    this.#threads = job.threads ?? new RangeThreads(job.channels === 1 ? 1 : job.channels + 1);
  }

  /** Null before it is connected. */
  get main(): RangeThread | null {
    return this.#open[MAIN] ?? null;
  }

  /** Bytes and pages that have crossed on all channels. */
  get sent(): { readonly wireBytes: number; readonly normalPages: number } {
    return sumCounters(this.#counters);
  }

  /** Settles when the main channel is at the end of a message, or in nobody knows what place. */
  get exchange(): Promise<unknown> {
    return this.#exchange;
  }

  async connectMain(): Promise<RangeThread> {
    const [main] = await this.#connect(1);
    return main!;
  }

  /** Opens additional channels, and introduces them. */
  async connectMore(count: number, role: "memory" | "fault"): Promise<readonly RangeThread[]> {
    const opened = await this.#connect(count);
    for (const thread of opened) {
      this.useBlocks(thread);
      if (this.#job.era.connections === "with-role")
        await this.#attempt.failure.race(thread.send(encodeConnectionRole(role)));
    }
    return opened;
  }

  async #connect(count: number): Promise<readonly RangeThread[]> {
    if (count === 0) return [];
    const opened = await this.#attempt.failure.race(connectChannels(this.#job, count, this.#attempt.signal));
    return opened.map((channel) => {
      const thread = this.#threads.take();
      const number = this.#open.length;
      thread.attach(channel, number === MAIN ? "main channel" : `channel ${number - 1}`, this.#counters, number);
      this.#open.push(thread);
      return thread;
    });
  }

  /** Lets RAM be sent on a channel. */
  useBlocks(thread: RangeThread): void {
    thread.useBlocks(
      this.#ram.map(({ block, descriptor, offsetBytes }) => ({
        lengthBytes: block.lengthBytes,
        file: descriptor,
        fileOffsetBytes: offsetBytes,
        address: 0,
        fresh: -1,
      })),
    );
  }

  /** Awaits a command on the main channel, or what fails meanwhile. */
  async say(command: CommandName, exchange: Promise<unknown>): Promise<void> {
    if (command !== "memory") this.#attempt.step = `waiting for the answer to ${command}`;
    this.#exchange = exchange;
    await this.#attempt.failure.race(exchange);
  }

  /** Hands every RAM block's file over, slot by slot. */
  async passDescriptors(main: RangeThread): Promise<void> {
    for (const [index, { slot }] of this.#map.blocks.entries()) {
      const bytes = new Uint8Array(4);
      new DataView(bytes.buffer).setUint32(0, slot!, true);
      const exchange = async () => {
        const sent = main.send(encodeRequest("memoryFd", bytes.length));
        sent.catch(() => {}); // the answer tells, or its absence
        await main.sendDescriptor(bytes, this.#ram[index]!.descriptor);
        await awaitAnswer(main, "memoryFd");
      };
      await this.say("memoryFd", exchange());
    }
  }

  /**
   * Sends a table's RAM: on the main channel, or in chunks on the additional ones; all of it is answered then.
   *
   * @param bytesPerSecond  Over all channels; 0 for no limit.
   */
  async sendTable(table: MemoryRangeTable, bytesPerSecond: number, where: "any" | "on-main"): Promise<void> {
    const channels = this.#open.slice(MAIN + 1);
    if (channels.length === 0 || where === "on-main") {
      await this.say("memory", sendMemory(this.#open[MAIN]!, this.#map, table, bytesPerSecond));
      return;
    }
    const chunks = partitionRanges(table, CHUNK_BYTES);
    const send = async (thread: RangeThread) => {
      for (const chunk of chunks) await sendMemory(thread, this.#map, chunk, bytesPerSecond / channels.length);
    };
    await this.#attempt.failure.race(Promise.all(channels.map((thread) => send(thread))));
  }

  async close(): Promise<void> {
    for (const thread of this.#open) thread.shutDown();
    await Promise.all(this.#open.splice(0).map((thread) => this.#threads.giveBack(thread)));
    if (this.#job.threads === undefined) await this.#threads.end();
  }
}
