/**
 * Range threads: the coordinator's end of range channels.
 *
 * A peer that keeps its protocol here orders each step of a raw socket from the
 * channel's thread and awaits it; what it knows to come may be ordered
 * ahead. A thread is started before its socket is there, for loading what it
 * runs takes a tenth of a second, and may serve one socket after another.
 *
 * A thread owns the channel attached to it. To part them: `shutDown` wakes a
 * blocked call, `detach` waits for the thread to come back and frees the socket.
 */
import { fileURLToPath } from "node:url";
import { MessageChannel, type MessagePort } from "node:worker_threads";
import type { Channel } from "@multifd/channel";
import type {
  RangeAnswer,
  RangeBlockEntry,
  RangeChannelTask,
  RangeOrder,
  ReceivedDescriptors,
} from "@multifd/dataplane";
import { ChannelError, placeError, reviveError } from "@multifd/protocol";
import { Piscina } from "piscina";

type Waiting = { readonly resolve: (value: never) => void; readonly reject: (error: unknown) => void };

export class RangeThread {
  readonly #pool: Piscina;
  readonly #port: MessagePort;
  readonly #ended: Promise<void>;
  readonly #waiting: Waiting[] = [];
  #name = "channel";
  #channel: Channel | null = null;
  #ending = false;

  constructor() {
    const { port1, port2 } = new MessageChannel();
    this.#port = port1;
    port1.on("message", (answer: RangeAnswer) => this.#hear(answer));
    this.#pool = new Piscina({
      filename: fileURLToPath(import.meta.resolve("@multifd/workers/range-channel")),
      minThreads: 1,
      maxThreads: 1,
      concurrentTasksPerWorker: 1,
    });
    const task: RangeChannelTask = { port: port2 };
    this.#ended = this.#pool.run(task, { transferList: [port2] }).then(
      () => this.#drop(new ChannelError("CHANNEL_BROKEN", `${this.#name}: closed`)),
      (error: unknown) => this.#drop(error),
    );
  }

  /**
   * Gives the thread its socket.
   *
   * @param name      For messages: `main channel`, `channel 3`.
   * @param counters  From `createCounters`, and the channel's number among them.
   */
  attach(channel: Channel, name: string, counters: SharedArrayBuffer, counter: number): void {
    this.#channel = channel;
    this.#name = name;
    this.#order({ kind: "attach", descriptor: channel.descriptor, counters, counter }).catch(() => {});
  }

  /** What it is called in messages. */
  get name(): string {
    return this.#name;
  }

  /** Whether it can take another socket. */
  get usable(): boolean {
    return !this.#ending;
  }

  get channel(): Channel | null {
    return this.#channel;
  }

  /** The blocks that pieces name from here on. */
  useBlocks(blocks: readonly RangeBlockEntry[]): void {
    this.#order({ kind: "blocks", blocks }).catch(() => {});
  }

  /** @throws {ChannelError} CHANNEL_BROKEN; as all here, or why TLS ended. */
  async send(bytes: Uint8Array): Promise<void> {
    await this.#order({ kind: "send", bytes });
  }

  /** @returns So many bytes; fewer only where the stream ended. */
  receive(bytes: number): Promise<Uint8Array<ArrayBuffer>> {
    return this.#order({ kind: "receive", bytes });
  }

  /** @param descriptor  Open until this settles. */
  async sendDescriptor(bytes: Uint8Array, descriptor: number): Promise<void> {
    await this.#order({ kind: "send-descriptor", bytes, descriptor });
  }

  /** @returns What one message bore; the descriptors are the caller's to close. */
  receiveDescriptors(bytes: number, descriptorsMax: number): Promise<ReceivedDescriptors> {
    return this.#order({ kind: "receive-descriptors", bytes, descriptorsMax });
  }

  /**
   * @param pieces          Triples: block, offset in it, length; the array goes to the thread.
   * @param bytesPerSecond  0 for as fast as it goes.
   * @throws {SystemError} what a RAM file answers.
   */
  async sendRanges(pieces: Float64Array<ArrayBuffer>, bytesPerSecond = 0): Promise<void> {
    await this.#order({ kind: "send-ranges", pieces, bytesPerSecond }, pieces.buffer);
  }

  /** @param makeMissing  Whether the RAM files are likely to lack these pages. */
  async receiveRanges(pieces: Float64Array<ArrayBuffer>, makeMissing: boolean): Promise<void> {
    await this.#order({ kind: "receive-ranges", pieces, makeMissing }, pieces.buffer);
  }

  /** Wakes the thread out of whatever it waits for on the socket. */
  shutDown(): void {
    this.#channel?.shutDown();
  }

  /** Why the stream ended, where TLS knows; else null. */
  async reasonOfEnd(): Promise<Error | null> {
    const reason = (await this.#channel?.explain<null>(null)) ?? null;
    return reason === null ? null : (placeError(reason, this.#name) as Error);
  }

  /** Waits until everything ordered has been answered, then frees the socket; a blocked call needs `shutDown` first. */
  async detach(): Promise<void> {
    const channel = this.#channel;
    this.#channel = null;
    if (this.usable) await this.#order({ kind: "blocks", blocks: [] }).catch(() => {});
    channel?.close();
  }

  /** Ends the thread, once it has obeyed what it was told. */
  async end(): Promise<void> {
    if (this.usable) this.#port.postMessage({ kind: "end" } satisfies RangeOrder);
    await this.#ended;
    await this.#pool.destroy();
  }

  #order<Value>(order: RangeOrder, ...transfer: readonly ArrayBuffer[]): Promise<Value> {
    if (!this.usable) return Promise.reject(new ChannelError("CHANNEL_BROKEN", `${this.#name}: closed`));
    return new Promise((resolve, reject) => {
      this.#waiting.push({ resolve, reject });
      this.#port.postMessage(order, [...transfer]);
    });
  }

  #hear(answer: RangeAnswer): void {
    const waiting = this.#waiting.shift();
    if (waiting === undefined) return;
    if (answer.ok) waiting.resolve(answer.value as never);
    else void this.#explain(reviveError(answer.error)).then(waiting.reject);
  }

  /** Under TLS the end of the stream has a reason that only the tunnel knows. */
  async #explain(error: unknown): Promise<unknown> {
    return placeError((await this.#channel?.explain(error)) ?? error, this.#name);
  }

  #drop(error: unknown): void {
    this.#ending = true;
    this.#port.close();
    for (const { reject } of this.#waiting.splice(0)) reject(error);
  }
}

/** Threads for the channels of migrations to come; whoever runs many keeps them. */
export class RangeThreads {
  readonly #idle: RangeThread[];

  /** @param ready  So many are started at once; more follow when they are taken. */
  constructor(ready: number) {
    this.#idle = Array.from({ length: ready }, () => new RangeThread());
  }

  take(): RangeThread {
    return this.#idle.pop() ?? new RangeThread();
  }

  /** Parts a thread from its socket and keeps it. */
  async giveBack(thread: RangeThread): Promise<void> {
    await thread.detach();
    if (thread.usable) this.#idle.push(thread);
    else await thread.end();
  }

  /** Ends those that are not in use. */
  async end(): Promise<void> {
    await Promise.all(this.#idle.splice(0).map((thread) => thread.end()));
  }
}
