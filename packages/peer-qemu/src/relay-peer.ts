/**
 * QEMU on both sides: what one says on its main channel goes to the other, and the answers come back.
 *
 * Source and destination have the same machine type, hence the same dialect: where
 * zero pages go, and which record pairs with a SYNC. So the main channel is passed on
 * byte for byte, and read only to know when a record must wait for the channels, and
 * where the stream ends. Whether there is a return path, and who must acknowledge
 * what, is theirs too: a PING is answered by the one that it was meant for. A hello is
 * the exception: it concerns the channels, so we say our own on either side.
 *
 *   source ── main ──▶ tap ──────────────▶ destination      held before FLUSH or EOS, until SYNC is out
 *   source ◀── PONG, SWITCHOVER_ACK, SHUT ── destination
 *
 * Owns both main channels, and the reception until the source is there.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { type Address, type Channel, formatAddress, MainChannel } from "@multifd/channel";
import type { RelayPeer, RelayWord } from "@multifd/engine";
import {
  ChannelError,
  type Compression,
  decodeMainStream,
  decodeReturnPath,
  encodeCommand,
  encodeHelloAnswer,
  encodePong,
  encodeShut,
  encodeSwitchoverAck,
  HELLO_PING,
  type MainEvent,
  type PacketMethod,
  ProtocolError,
  placeError,
  RAM_RECORD_BYTES,
  type ReturnPathEvent,
  TappedSource,
} from "@multifd/protocol";
import { connectDestination, type DestinationTerms } from "./connect-destination.js";
import { Greeting } from "./greeting.js";
import { announcedMethods, helloMethods } from "./hello-methods.js";
import { describeBlocks } from "./ram-block-list.js";
import { Reception, type ReceptionTerms } from "./reception.js";
import { SyncPairing } from "./sync-pairing.js";

/** How long a source may take to hear that we failed before we close. */
const REFUSE_MS = 1000;
/** A destination that goes away for a reason says so while its channels break: how long that word may take. */
const LAST_WORD_MS = 500;

/** Each side's compression as in `RelayJob`: for lz4 and auto a hello is said there. */
export type RelayFromTerms = ReceptionTerms & { readonly compression?: Compression };
export type RelayToTerms = Omit<DestinationTerms, "uuid"> & { readonly compression?: Compression };

export class QemuRelayPeer implements RelayPeer {
  readonly channels: { readonly source: number; readonly destination: number };
  readonly #reception: Reception;
  readonly #to: RelayToTerms;
  #uuid: Uint8Array | null = null;
  #source: MainChannel | null = null;
  #destination: MainChannel | null = null;
  #returnPath = false;
  #passedOn = false;
  #sourceKnows = false;
  #verdict: Promise<void> | null = null;
  /** What we say hello to the source for; null where its side keeps to QEMU's wire. */
  readonly #ours: readonly PacketMethod[] | null;
  /** What we answered the source with; null before, and once it has said its own hello. */
  #offered: readonly PacketMethod[] | null = null;
  #fromMethods: readonly PacketMethod[] | null = null;
  /** Null where the destination's side keeps to QEMU's wire. */
  readonly #greeting: Greeting | null;
  /** Our own PING is out: its PONG is not for the source. */
  #ownPong = false;
  #toMethods: readonly PacketMethod[] | null = null;
  /** What broke the destination's main channel while the source's was being read. */
  #passingFailure: unknown = null;

  private constructor(reception: Reception, from: RelayFromTerms, to: RelayToTerms) {
    this.#reception = reception;
    this.#to = to;
    this.channels = { source: from.channels, destination: to.channels };
    this.#ours = helloMethods(from.compression ?? "none");
    const toMethods = helloMethods(to.compression ?? "none");
    this.#greeting = toMethods === null ? null : new Greeting(toMethods);
  }

  /**
   * Listens for the source; the destination is left alone until that is there.
   *
   * @throws {SystemError} when the address cannot be listened on.
   */
  static async listen(address: Address, from: RelayFromTerms, to: RelayToTerms): Promise<QemuRelayPeer> {
    return new QemuRelayPeer(await Reception.listen(address, from), from, to);
  }

  /** As listened on, with the port that the system chose where 0 was given. */
  get address(): Address {
    return this.#reception.address;
  }

  get names(): { readonly source: string; readonly destination: string } {
    return {
      source: `source at ${formatAddress(this.address)}`,
      destination: `destination at ${formatAddress(this.#to.address)}`,
    };
  }

  get mainBytes(): { readonly source: number; readonly destination: number } {
    return { source: this.#source?.wireBytes ?? 0, destination: this.#destination?.wireBytes ?? 0 };
  }

  get packetMethods(): RelayPeer["packetMethods"] {
    return { source: this.#fromMethods, destination: this.#toMethods };
  }

  get returnPath(): boolean {
    return this.#returnPath;
  }

  async accept(signal: AbortSignal, onSurplus: (error: unknown) => void): Promise<readonly Channel[]> {
    const { main, channels, uuid } = await this.#reception.accept(signal, onSurplus);
    this.#source = new MainChannel(main);
    this.#uuid = uuid;
    return channels;
  }

  async connect(signal: AbortSignal): Promise<readonly Channel[]> {
    const { main, channels } = await connectDestination({ ...this.#to, uuid: this.#uuid! }, signal);
    this.#destination = main;
    return channels;
  }

  async *words(): AsyncGenerator<RelayWord> {
    try {
      yield* this.#read();
    } catch (error) {
      throw this.#passingFailure ?? placeError(error, this.names.source);
    }
  }

  async *#read(): AsyncGenerator<RelayWord> {
    const tap = new TappedSource(this.#source!.source, (bytes) => this.#passOn(bytes));
    const pairing = new SyncPairing();
    let pageBytes = 0;
    for await (const event of decodeMainStream(tap)) {
      switch (event.kind) {
        case "configuration":
          pageBytes = event.pageBytes;
          break;
        case "command":
          await this.#obey(event, tap);
          break;
        case "ram-blocks":
          await this.#noHello(tap);
          yield { kind: "ram-blocks", blocks: describeBlocks(event.blocks, pageBytes) };
          break;
        case "zero-pages":
          yield { kind: "pages", normalPages: 0, zeroPages: event.pages.length };
          break;
        case "page":
          yield { kind: "pages", normalPages: 1, zeroPages: 0 };
          break;
        case "flush":
        case "section-end":
          if (pairing.pairs(event)) {
            this.#reception.lastCall();
            await tap.handOn(RAM_RECORD_BYTES);
            yield { kind: "sync", phase: event.phase };
            // At once: every channel of the destination stands still until this record is there, and a later SYNC
            // may be in the bytes that we hold already.
            await tap.handOn(0);
          }
          if (event.kind === "section-end" && event.phase === "complete") yield { kind: "ram-end" };
          break;
        case "devices":
          await this.#reception.allHeard();
          yield { kind: "last" };
          this.#passedOn = true; // before the write: the answer may come before the write is confirmed
          await tap.handOn(0);
          break;
      }
    }
  }

  async #obey(command: Extract<MainEvent, { kind: "command" }>, tap: TappedSource): Promise<void> {
    if (command.name !== "hello") await this.#noHello(tap);
    switch (command.name) {
      case "open-return-path":
        this.#returnPath = true;
        await tap.handOn(0);
        await this.#greet();
        break;
      case "ping":
        if (command.value !== HELLO_PING || this.#ours === null || !this.#returnPath) break;
        this.#offered = this.#ours;
        await this.#tellSource(encodeHelloAnswer({ methods: this.#ours }));
        tap.hold(); // a hello to us may come next, and goes no further
        break;
      case "hello":
        this.#fromMethods = announcedMethods(this.#offered, command.hello);
        this.#offered = null;
        tap.drop(command.bytes);
        await tap.handOn(0);
        break;
      case "switchover-start":
        break;
    }
  }

  /** A hello follows our answer at once, or not at all: what came instead is the destination's. */
  async #noHello(tap: TappedSource): Promise<void> {
    if (this.#offered === null) return;
    this.#offered = null;
    await tap.handOn(0);
  }

  /** Asks the destination for a hello of its own: what the source says of that is between it and us. */
  async #greet(): Promise<void> {
    if (this.#greeting === null) return;
    this.#ownPong = true;
    await this.#passOn(encodeCommand({ name: "ping", value: HELLO_PING }));
    this.#toMethods = await this.#greeting.answered(this.#to.connectTimeoutMs);
    if (this.#toMethods === null) return;
    await this.#passOn(encodeCommand({ name: "hello", hello: { methods: this.#toMethods } }));
  }

  async #passOn(bytes: Uint8Array): Promise<void> {
    try {
      await this.#destination!.write(bytes);
    } catch (cause) {
      this.#passingFailure = placeError(cause, this.names.destination);
      await Promise.race([this.#verdict?.catch(() => {}), sleep(LAST_WORD_MS, undefined, { ref: false })]);
      throw cause;
    }
  }

  verdict(): Promise<void> {
    this.#verdict = this.#passBack();
    return this.#verdict;
  }

  async #passBack(): Promise<void> {
    for await (const message of this.#answers()) {
      switch (message.kind) {
        case "hello":
          // Any other than the one we asked for answers a PING of the source's that went through us. It may come before
          // our own PONG: a second relay says hello by itself, but the PONGs are the destination's.
          if (this.#ownPong && this.#greeting?.isOpen) this.#greeting.hear(message);
          break;
        case "pong":
          if (this.#ownPong && message.value === HELLO_PING) {
            this.#ownPong = false;
            this.#greeting?.hear(message);
          } else {
            await this.#tellSource(encodePong(message.value));
          }
          break;
        case "switchover-ack":
          await this.#tellSource(encodeSwitchoverAck());
          break;
        case "shut":
          return await this.#shut(message.status);
      }
    }
    if (this.#passedOn && !this.#returnPath) return;
    throw new ChannelError(
      "CHANNEL_BROKEN",
      `${this.names.destination}: it closed the main channel without a word; its own log says why`,
    );
  }

  async *#answers(): AsyncGenerator<ReturnPathEvent> {
    try {
      yield* decodeReturnPath(this.#destination!.source);
    } catch (error) {
      throw placeError(error, this.names.destination);
    }
  }

  async #tellSource(bytes: Uint8Array): Promise<void> {
    try {
      await this.#source!.write(bytes);
    } catch (error) {
      throw placeError(error, this.names.source);
    }
  }

  /** The destination's last word. It goes on to the source only where it can be true. */
  async #shut(status: number): Promise<void> {
    const { destination } = this.names;
    if (status === 0 && !this.#passedOn) {
      const message = `${destination}: it reports success before everything was sent`;
      throw new ProtocolError("RETURN_PATH_EARLY", message);
    }
    this.#sourceKnows = true;
    const told = this.#tellSource(encodeShut(status)).then(() => this.#source!.end());
    if (status === 0) return await told;
    await told.catch(() => {}); // a source that is gone knows without our word
    const message = `${destination}: it reports that it failed (status ${status}); its own log says why`;
    throw new ProtocolError("PEER_REFUSED", message);
  }

  cut(): void {
    this.#destination?.destroy();
  }

  async refuse(): Promise<void> {
    await this.#reception.settle(); // also where we were given up before all had come
    const source = this.#source;
    if (source === null) return;
    try {
      if (this.#returnPath && !this.#sourceKnows) await source.write(encodeShut(1));
      await source.end();
      await source.drain(REFUSE_MS);
    } catch {
      // The main channel is broken: the source knows without our word.
    }
  }

  close(): void {
    this.#reception.close();
    this.#source?.destroy();
    this.#destination?.destroy();
  }
}
