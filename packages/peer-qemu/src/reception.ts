/**
 * Reception: tells the connections at one listening address apart.
 *
 * The main channel and all multifd channels come to the same address, in any
 * order, and the bytes of the main channel may arrive after the channels' own. So
 * each connection is sorted by its first bytes ("QEVM", or a multifd init message), never by
 * the order of accepting, and none may hold the others up: all that have not
 * spoken are polled together. From the first connection on the clock runs;
 * whoever is missing when it ends is named. Under TLS a connection speaks once its
 * handshake is done, so these run side by side as well, and sorting stays the same.
 *
 * Owns the listener, and the connections until they are handed over.
 * Source: QEMU 10.1, migration/migration.c, migration_ioc_process_incoming().
 */
import { setTimeout as sleep } from "node:timers/promises";
import { type Address, type Channel, formatAddress, Listener, type TlsListenTerms, TlsPump } from "@multifd/channel";
import { peekBytes, pollReadable, receiveBytes } from "@multifd/native";
import {
  ChannelError,
  decodeMultifdInit,
  formatUuid,
  MAIN_MAGIC_BYTES,
  MULTIFD_INIT_BYTES,
  MULTIFD_MAGIC_BYTES,
  ProtocolError,
  placeError,
} from "@multifd/protocol";

export type ReceptionTerms = {
  readonly channels: number;
  /** What every channel's init message must bear; undefined takes any that all agree on. */
  readonly uuid?: Uint8Array;
  /** From the first connection until all are known. */
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

/** One poll lasts no longer than this, so that giving up is noticed. */
const POLL_MS = 100;
/** Between looks at a connection that has sent part of what is due. */
const PARTIAL_MS = 5;
/** So long nobody may have come before a source that is refused has all its connections; and when we wait no longer. */
const SETTLE_MS = 250;
const SETTLE_MAX_MS = 1000;
const MAGIC_BYTES = 4;
/** A TLS handshake has no clock of its own: ours covers it. */
const WATCHED_HERE = 0;

export class Reception {
  readonly #listener: Listener;
  readonly #terms: ReceptionTerms;
  readonly #tls: TlsPump | null;
  readonly #channels: (Channel | undefined)[] = [];
  #waiting: Channel[] = [];
  #main: Channel | null = null;
  #uuid: Uint8Array | null;
  #closed = false;

  private constructor(listener: Listener, terms: ReceptionTerms) {
    this.#listener = listener;
    this.#terms = terms;
    this.#tls = terms.tls ? new TlsPump(terms.tls) : null;
    this.#uuid = terms.uuid ?? null;
  }

  static async listen(address: Address, terms: ReceptionTerms): Promise<Reception> {
    return new Reception(await Listener.listen(address, terms.channels + 1), terms);
  }

  get address(): Address {
    return this.#listener.address;
  }

  /**
   * Waits until the main channel and every multifd channel are there; then nobody else is let in.
   *
   * @throws {ChannelError} CHANNELS_MISSING, naming them; CANCELLED; TLS_HANDSHAKE_TIMEOUT.
   * @throws {MigrationError} TLS_…: what came of a handshake.
   * @throws {ProtocolError} CONNECTION_MAGIC, MAIN_CHANNEL_TWICE, MULTIFD_CHANNEL_ID, MULTIFD_CHANNEL_TWICE,
   *   MULTIFD_UUID, MULTIFD_VERSION.
   */
  async accept(signal: AbortSignal): Promise<Connections> {
    try {
      let deadline = Number.POSITIVE_INFINITY;
      while (!this.#complete()) {
        if (signal.aborted) throw new ChannelError("CANCELLED", "cancelled while waiting for the source");
        if (performance.now() > deadline) throw this.#missing();
        await this.#step();
        if (this.#idle()) deadline = Number.POSITIVE_INFINITY;
        else if (deadline === Number.POSITIVE_INFINITY) deadline = performance.now() + this.#terms.handshakeTimeoutMs;
      }
      const channels = this.#channels.splice(0) as Channel[];
      const connections = { main: this.#main!, channels, uuid: this.#uuid! };
      this.#main = null;
      return connections;
    } catch (error) {
      await this.#settle();
      throw error;
    } finally {
      this.close();
    }
  }

  /**
   * Holds whatever has come, and lets in what is still coming, until the source has connected all that it wants to.
   *
   * QEMU 7.2 dies (assertion in its yank.c, or a segmentation fault), or can never migrate again, when its main
   * channel is closed while it still connects the others: one refusal in three when refused at once.
   */
  async #settle(): Promise<void> {
    const deadline = performance.now() + SETTLE_MAX_MS;
    for (let quiet = this.#closed || this.#idle(); !quiet && performance.now() < deadline; ) {
      const [ready] = await pollReadable([this.#listener.descriptor], SETTLE_MS);
      quiet = this.#closed || !ready;
      if (!quiet) this.#letIn();
    }
  }

  close(): void {
    this.#closed = true;
    this.#listener.close();
    this.#tls?.end();
    for (const connection of this.#waiting.splice(0)) connection.close();
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
    return (
      this.#main === null && this.#waiting.length === 0 && this.#channels.every((channel) => channel === undefined)
    );
  }

  async #step(): Promise<void> {
    const descriptors = [this.#listener.descriptor, ...this.#waiting.map((connection) => connection.descriptor)];
    const ready = await pollReadable(descriptors, POLL_MS);
    if (this.#closed) return; // these numbers may be somebody else's by now
    const spoken = this.#waiting.filter((_, index) => ready[index + 1]);
    let undecided = 0;
    for (const connection of spoken) {
      if (!(await this.#sort(connection))) undecided++;
    }
    if (ready[0]) this.#letIn();
    // A part of a message keeps its connection readable: without a pause this would spin.
    if (undecided > 0) await sleep(PARTIAL_MS);
  }

  #letIn(): void {
    for (let next = this.#listener.accept(); next !== null; next = this.#listener.accept()) {
      this.#waiting.push(this.#tls?.secure(next, WATCHED_HERE) ?? next);
    }
  }

  /** Takes a connection out of `#waiting` once it has said enough. @returns whether it did. */
  async #sort(connection: Channel): Promise<boolean> {
    const start = new Uint8Array(MULTIFD_INIT_BYTES);
    const length = peekBytes(connection.descriptor, start);
    if (length === 0) {
      this.#waiting = this.#waiting.filter((other) => other !== connection);
      const reason = await connection.explain(null);
      connection.close();
      if (reason !== null) throw placeError(reason, formatAddress(this.address));
      return true;
    }
    if (length === null || length < MAGIC_BYTES) return false;
    const magic = start.subarray(0, MAGIC_BYTES);
    const isMain = Buffer.compare(magic, MAIN_MAGIC_BYTES) === 0;
    if (!isMain && Buffer.compare(magic, MULTIFD_MAGIC_BYTES) !== 0) throw unknownMagic(magic);
    if (!isMain && length < MULTIFD_INIT_BYTES) return false;
    this.#waiting = this.#waiting.filter((other) => other !== connection);
    if (isMain) this.#takeMain(connection);
    else this.#takeChannel(connection, start);
    return true;
  }

  #takeMain(connection: Channel): void {
    if (this.#main !== null) {
      this.#waiting.push(connection); // it goes with the others
      throw new ProtocolError("MAIN_CHANNEL_TWICE", "two connections began as main channel; one source at a time");
    }
    this.#main = connection;
  }

  #takeChannel(connection: Channel, message: Uint8Array): void {
    receiveBytes(connection.descriptor, message);
    try {
      const { uuid, channel } = decodeMultifdInit(message);
      this.#checkChannel(channel);
      this.#checkUuid(channel, uuid);
      this.#channels[channel] = connection;
    } catch (error) {
      this.#waiting.push(connection);
      throw error;
    }
  }

  #checkChannel(channel: number): void {
    const { channels } = this.#terms;
    if (channel >= channels) {
      throw new ProtocolError(
        "MULTIFD_CHANNEL_ID",
        `channel ${channel} came, this side expects ${channels} (0 to ${channels - 1}); set the same number of channels on both sides`,
      );
    }
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
    const { channels, handshakeTimeoutMs } = this.#terms;
    const shaking = this.#waiting.filter((connection) => connection.tls === "handshake").length;
    if (shaking > 0) {
      return new ChannelError(
        "TLS_HANDSHAKE_TIMEOUT",
        `${formatAddress(this.address)}: ${shaking} connected and did not finish the TLS handshake within ${handshakeTimeoutMs} ms of the first connection; is TLS switched on at the source?`,
      );
    }
    const missing: string[] = this.#main === null ? ["the main channel"] : [];
    for (let channel = 0; channel < channels; channel++) {
      if (this.#channels[channel] === undefined) missing.push(`channel ${channel}`);
    }
    const silent = this.#waiting.length;
    const note = silent === 0 ? "" : ` (${silent} connected without saying what they are)`;
    return new ChannelError(
      "CHANNELS_MISSING",
      `${formatAddress(this.address)}: ${missing.join(", ")} did not come within ${handshakeTimeoutMs} ms of the first connection${note}; set multifd on and ${channels} channels at the source`,
    );
  }
}

function unknownMagic(magic: Uint8Array): ProtocolError {
  const came = Buffer.from(magic).toString("hex");
  const hint =
    magic[0] === 0x16
      ? "it looks like TLS: give this side credentials, or switch it off at the source"
      : "is the peer a migration source?";
  return new ProtocolError(
    "CONNECTION_MAGIC",
    `a connection began with ${came}; 5145564d (main channel) or 11223344 (multifd channel) was due; ${hint}`,
  );
}
