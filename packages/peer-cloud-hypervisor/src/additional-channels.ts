/**
 * Additional channels: those that a destination lets in beside the main one, between Config and State.
 *
 * Each says first what it is for: from 53.0 on by a role, in 52.0 by beginning with a Memory command.
 * One carries page faults, which the destination asks for; all others carry RAM, each Memory command
 * answered where it came. One that never says what it is, or says something else, is no part of the
 * migration and is dropped; one that fails at its work takes the migration with it.
 *
 * Owns the channels and their threads while they serve.
 */
import type { Channel } from "@multifd/channel";
import type { FirstFailure, RangeThread, RangeThreads } from "@multifd/engine";
import {
  ChannelError,
  CONNECTION_ROLE,
  CONNECTION_ROLE_BYTES,
  CONNECTIONS_MAX,
  commandName,
  encodeResponse,
  migrationRequest,
  ProtocolError,
  REQUEST_BYTES,
} from "@multifd/protocol";
import type { CloudHypervisorDestinationJob } from "./destination-job.js";
import { receiveOrEnd, sayError } from "./exchange.js";
import type { IncomingRam } from "./incoming-ram.js";
import type { RamIntake } from "./ram-intake.js";
import type { Reception } from "./reception.js";

export type AdditionalChannelsTerms = {
  readonly job: CloudHypervisorDestinationJob;
  readonly ram: RamIntake;
  readonly threads: RangeThreads;
  /** From `createCounters`: the first is the main channel's. */
  readonly counters: SharedArrayBuffer;
  readonly failure: FirstFailure;
  /** Aborted by the failure. */
  readonly signal: AbortSignal;
};

export class AdditionalChannels {
  readonly #terms: AdditionalChannelsTerms;
  /** They are let in until this is aborted. */
  readonly #over = new AbortController();
  readonly #open = new Set<RangeThread>();
  readonly #serving: Promise<void>[] = [];
  #faultChannelCame: (thread: RangeThread) => void = () => {};
  #accepted = 0;
  #busy = 0;
  /** The channel on which pages are asked for, as soon as it is there. */
  readonly faultChannel: Promise<RangeThread>;

  constructor(terms: AdditionalChannelsTerms) {
    this.#terms = terms;
    this.faultChannel = new Promise((resolve) => {
      this.#faultChannelCame = resolve;
    });
  }

  /** Channels with a Memory command under way. */
  get busy(): number {
    return this.#busy;
  }

  /** Lets channels in until `endMemory`. */
  letIn(reception: Reception): void {
    const { failure, signal } = this.#terms;
    const over = AbortSignal.any([this.#over.signal, signal]);
    const accept = async () => {
      for (;;) {
        const channel = await reception.next(over);
        if (channel === null) return;
        if (++this.#accepted > CONNECTIONS_MAX) {
          channel.close();
          throw new ProtocolError("CHANNELS_TOO_MANY", `more than ${CONNECTIONS_MAX} additional channels came`);
        }
        this.#serving.push(this.#serve(reception, channel, this.#accepted, over));
      }
    };
    this.#serving.push(accept().catch((error: unknown) => failure.fail(error)));
  }

  /** Lets nobody in any more, and takes no Memory command. */
  endMemory(): void {
    this.#over.abort();
  }

  /** Wakes and closes all of them. Idempotent. */
  async close(): Promise<void> {
    this.endMemory();
    for (const thread of this.#open) thread.shutDown();
    await Promise.all(this.#serving.splice(0));
    for (const thread of this.#open) await this.#terms.threads.giveBack(thread);
    this.#open.clear();
  }

  async #serve(reception: Reception, channel: Channel, number: number, over: AbortSignal): Promise<void> {
    const { failure, threads, counters } = this.#terms;
    let thread: RangeThread | null = null;
    try {
      await reception.secured(channel, over);
      thread = threads.take();
      this.#open.add(thread);
      thread.attach(channel, `channel ${number - 1}`, counters, number);
      if (failure.failed) thread.shutDown();
      await this.#introduce(thread);
    } catch (error) {
      // It hears first that it takes the migration with it.
      if (thread !== null && !failure.failed && error instanceof ProtocolError) sayError(thread);
      failure.fail(error);
    }
  }

  /** Finds out what a channel is for. */
  async #introduce(thread: RangeThread): Promise<void> {
    const { era, memory, handshakeTimeoutMs } = this.#terms.job;
    const silence = setTimeout(() => thread.shutDown(), handshakeTimeoutMs);
    let first: Uint8Array | null;
    try {
      first = await receiveOrEnd(thread, CONNECTION_ROLE_BYTES, "the role of a channel").catch(() => null);
    } finally {
      clearTimeout(silence);
    }
    if (first === null) return this.#retire(thread);
    const word = new DataView(first.buffer, first.byteOffset).getUint16(0, true);
    const hasRoles = era.connections === "with-role";
    if (word === CONNECTION_ROLE.fault && hasRoles && memory === "on-demand") {
      const ram = await this.#terms.ram.forFaults();
      ram.useBlocks(thread);
      this.#faultChannelCame(thread);
      return;
    }
    if (word === CONNECTION_ROLE.memory && hasRoles) return this.#followMemory(thread, null);
    if (commandName(word) === "memory" && era.connections !== "none") return this.#followMemory(thread, first);
    return this.#retire(thread);
  }

  /** Takes Memory commands until the channel ends between two of them. @param begun  The first bytes of the first. */
  async #followMemory(thread: RangeThread, begun: Uint8Array | null): Promise<void> {
    let ram: IncomingRam | null = null;
    for (let start = begun; ; start = null) {
      const rest = await receiveOrEnd(thread, REQUEST_BYTES - (start?.length ?? 0), "a request");
      if (rest === null && start === null) return this.#retire(thread);
      if (rest === null) throw new ChannelError("CHANNEL_CUT", `${thread.name}: the peer closed inside a request`);
      const { command, payloadBytes } = migrationRequest.decode(start === null ? rest : Buffer.concat([start, rest]));
      if (commandName(command) !== "memory")
        throw new ProtocolError("COMMAND_OUT_OF_ORDER", `${thread.name}: command ${command} came, memory was due`);
      if (this.#over.signal.aborted)
        throw new ProtocolError("COMMAND_OUT_OF_ORDER", `${thread.name}: memory came behind state`);
      this.#busy++;
      if (ram === null) {
        ram = await this.#terms.ram.forStream();
        ram.useBlocks(thread);
      }
      ram.checkTableBytes(payloadBytes);
      await ram.receive(thread, payloadBytes);
      this.#busy--; // before the answer: the source may say State as soon as it has it
      await thread.send(encodeResponse("ok"));
    }
  }

  async #retire(thread: RangeThread): Promise<void> {
    this.#open.delete(thread);
    thread.shutDown();
    await this.#terms.threads.giveBack(thread);
  }
}
