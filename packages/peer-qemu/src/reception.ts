/**
 * Reception: tells the connections at one listening address apart.
 *
 * The main channel and all multifd channels come to the same address, in any
 * order, and the bytes of the main channel may arrive after the channels' own. So
 * each connection is sorted by its first bytes ("QEVM", or a multifd init message), never by
 * the order of accepting, and none may hold the others up. From the first connection on the
 * clock runs; whoever is missing when it ends is named. Under TLS a connection speaks once its
 * handshake is done, so these run side by side as well, and sorting stays the same.
 *
 * The number of channels is not negotiated: a source that was told more of them opens more, may do so after all that
 * we expect are there, and would put pages on them. So the door stays open, and is watched, until no more can come:
 *
 *   accept ── all expected are there ── watched ── last call: the set-up SYNC's record ── whoever is in has spoken
 *
 * A source of any version writes that record only when it has opened all of its channels. Meanwhile only
 * one thing may end the migration: an init message of this VM's UUID with a number beyond those expected. VMs that were
 * given no UUID cannot be told apart by it; then rather a refusal, after which every source goes on, than lost
 * pages. Whoever else comes late, another source, a postcopy-preempt channel (its source is refused by what its main
 * channel says), a scanner, changes nothing: what no source would say is hung up on, the rest is held, for
 * a QEMU 7.2 that is hung up on while it connects may not survive it.
 *
 * Owns the entrance, and the connections until they are handed over.
 * Source: QEMU 10.1, migration/migration.c, migration_ioc_process_incoming(); migration/multifd.c, multifd_send_setup();
 * QEMU 7.2, migration/multifd.c, multifd_send_sync_main().
 */
import { setTimeout as sleep } from "node:timers/promises";
import { type Address, type Channel, formatAddress, type TlsListenTerms } from "@multifd/channel";
import { receiveBytes } from "@multifd/native";
import {
  ChannelError,
  decodeMultifdInit,
  formatUuid,
  MULTIFD_INIT_BYTES,
  type MultifdInit,
  ProtocolError,
  placeError,
} from "@multifd/protocol";
import { Entrance } from "./entrance.js";
import type { FirstWords } from "./first-words.js";
import { missingChannels, tooManyChannels, unknownMagic } from "./reception-errors.js";

export type ReceptionTerms = {
  readonly channels: number;
  /** What every channel's init message must bear; undefined takes any that all agree on. */
  readonly uuid?: Uint8Array;
  /** From the first connection until all are known; and for each that comes later, to say what it is. */
  readonly handshakeTimeoutMs: number;
  /** Left out: plain connections only. */
  readonly tls?: TlsListenTerms;
};

export type Connections = {
  readonly main: Channel;
  readonly channels: readonly Channel[];
  /** The VM's, as every channel bore it. */
  readonly uuid: Uint8Array;
};

/** Between looks at the door, once all are there. */
const WATCH_MS = 10;

export class Reception {
  readonly #entrance: Entrance;
  readonly #terms: ReceptionTerms;
  readonly #channels: (Channel | undefined)[] = [];
  #main: Channel | null = null;
  #uuid: Uint8Array | null;
  #watching: Promise<void> | null = null;
  #settling: Promise<void> | null = null;

  private constructor(entrance: Entrance, terms: ReceptionTerms) {
    this.#entrance = entrance;
    this.#terms = terms;
    this.#uuid = terms.uuid ?? null;
  }

  /** @throws {SystemError} when the address cannot be listened on. */
  static async listen(address: Address, terms: ReceptionTerms): Promise<Reception> {
    return new Reception(await Entrance.listen(address, terms.tls), terms);
  }

  get address(): Address {
    return this.#entrance.address;
  }

  /**
   * Waits until the main channel and every multifd channel are there.
   *
   * @param onSurplus  Told, once, of a channel more than those; whoever gives it sees to `lastCall`. Left out: nobody else is let in.
   * @throws {ChannelError} CHANNELS_MISSING, naming them; CANCELLED; TLS_HANDSHAKE_TIMEOUT.
   * @throws {MigrationError} TLS_…: what came of a handshake.
   * @throws {ProtocolError} CONNECTION_MAGIC, MAIN_CHANNEL_TWICE, MULTIFD_CHANNEL_ID, MULTIFD_CHANNEL_TWICE,
   *   MULTIFD_UUID, MULTIFD_VERSION.
   */
  async accept(signal: AbortSignal, onSurplus?: (error: unknown) => void): Promise<Connections> {
    try {
      let deadline = Number.POSITIVE_INFINITY;
      while (!this.#complete()) {
        if (signal.aborted || !this.#entrance.open)
          throw new ChannelError("CANCELLED", "cancelled while waiting for the source");
        if (performance.now() > deadline) throw this.#missing();
        await this.#entrance.step((connection, words) => this.#sort(connection, words));
        if (this.#idle()) deadline = Number.POSITIVE_INFINITY;
        else if (deadline === Number.POSITIVE_INFINITY) deadline = performance.now() + this.#terms.handshakeTimeoutMs;
      }
    } catch (error) {
      await this.settle();
      this.close();
      throw error;
    }
    const channels = this.#channels.splice(0) as Channel[];
    const connections = { main: this.#main!, channels, uuid: this.#uuid! };
    this.#main = null;
    if (onSurplus === undefined) this.close();
    else this.#watching = this.#watch(onSurplus);
    return connections;
  }

  async #watch(onSurplus: (error: unknown) => void): Promise<void> {
    try {
      while (this.#settling === null && (this.#entrance.open || this.#entrance.unknown.length > 0)) {
        // Asked now and then: a wait would hold one of the process's few threads for files, which others need by now.
        await this.#entrance.step((connection, words) => this.#judge(connection, words), 0);
        this.#entrance.expire(this.#terms.handshakeTimeoutMs);
        await sleep(WATCH_MS);
      }
    } catch (error) {
      onSurplus(error);
    }
  }

  /** The source has opened all of its channels: who is waiting is let in, and nobody after them. Idempotent. */
  lastCall(): void {
    this.#entrance.shut();
  }

  /** After `lastCall`: waits until whoever came has said what it is, or has had its time. */
  async allHeard(): Promise<void> {
    if (this.#entrance.unknown.length > 0) await this.#watching;
  }

  /**
   * Before the source is refused: waits until it has opened all that it wants to, which takes three seconds at most
   * and no time after `lastCall`. Who has come, and who comes, is held until `close`.
   */
  settle(): Promise<void> {
    this.#settling ??= this.#settle();
    return this.#settling;
  }

  async #settle(): Promise<void> {
    if (this.#watching !== null || !this.#idle()) await this.#entrance.settle();
  }

  close(): void {
    this.#entrance.close();
    for (const channel of this.#channels.splice(0)) channel?.close();
    this.#main?.close();
    this.#main = null;
  }

  #complete(): boolean {
    const { channels } = this.#terms;
    return this.#main !== null && this.#channels.filter((channel) => channel !== undefined).length === channels;
  }

  /** Nobody is connected, or whoever was has gone without a word: a probe, not a source. */
  #idle(): boolean {
    return !this.#entrance.occupied && this.#main === null && this.#channels.every((channel) => channel === undefined);
  }

  async #sort(connection: Channel, words: FirstWords): Promise<void> {
    switch (words.kind) {
      case "ended": {
        const reason = await connection.explain(null);
        connection.close();
        if (reason !== null) throw placeError(reason, formatAddress(this.address));
        return;
      }
      case "unknown":
        throw unknownMagic(words.magic);
      case "main":
        if (this.#main === null) this.#main = connection;
        else
          throw new ProtocolError("MAIN_CHANNEL_TWICE", "two connections began as main channel; one source at a time");
        return;
      case "multifd": {
        const { uuid, channel } = decodeMultifdInit(words.init);
        this.#checkChannel(channel);
        this.#checkUuid(channel, uuid);
        receiveBytes(connection.descriptor, new Uint8Array(MULTIFD_INIT_BYTES));
        this.#channels[channel] = connection;
      }
    }
  }

  /** Sees to who came when all were there. @throws {ProtocolError} MULTIFD_CHANNEL_ID, if it is one more channel of theirs. */
  #judge(connection: Channel, words: FirstWords): void {
    const { channels } = this.#terms;
    const init = words.kind === "multifd" ? decodedOrNull(words.init) : null;
    const isOfThisVm = init !== null && Buffer.compare(init.uuid, this.#uuid!) === 0;
    if (isOfThisVm && init.channel >= channels) throw tooManyChannels(init.channel, channels);
    if (words.kind === "main" || words.kind === "multifd") this.#entrance.hold(connection);
    else connection.close();
  }

  #checkChannel(channel: number): void {
    const { channels } = this.#terms;
    if (channel >= channels) throw tooManyChannels(channel, channels);
    if (this.#channels[channel] === undefined) return;
    throw new ProtocolError("MULTIFD_CHANNEL_TWICE", `channel ${channel} came twice; one source at a time`);
  }

  #checkUuid(channel: number, uuid: Uint8Array): void {
    this.#uuid ??= uuid;
    if (Buffer.compare(uuid, this.#uuid) === 0) return;
    const due = this.#terms.uuid === undefined ? "the channels before it bear" : "this side expects";
    throw new ProtocolError(
      "MULTIFD_UUID",
      `channel ${channel} bears UUID ${formatUuid(uuid)}, ${due} ${formatUuid(this.#uuid)}; it belongs to another VM`,
    );
  }

  #missing(): ChannelError {
    const missing: string[] = this.#main === null ? ["the main channel"] : [];
    for (let channel = 0; channel < this.#terms.channels; channel++) {
      if (this.#channels[channel] === undefined) missing.push(`channel ${channel}`);
    }
    return missingChannels(formatAddress(this.address), this.#terms, missing, this.#entrance.unknown);
  }
}

function decodedOrNull(init: Uint8Array): MultifdInit | null {
  try {
    return decodeMultifdInit(init);
  } catch (error) {
    if (error instanceof ProtocolError) return null;
    throw error;
  }
}
