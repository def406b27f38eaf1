/**
 * QEMU as the source: reads its main channel, answers on its return path.
 *
 * Turns the stream's events into what the engine waits for.
 *
 * The same words come from our own source: there is one wire.
 * Source: QEMU 10.0, migration/ram.c, ram_load_precopy(); migration/savevm.c, qemu_loadvm_state_main().
 */
import { type Address, formatAddress, MainChannel } from "@multifd/channel";
import type { DestinationPeer, SourceWord } from "@multifd/engine";
import type { RamBlock } from "@multifd/memory";
import {
  CAPABILITY_IGNORE_SHARED,
  type Compression,
  decodeMainStream,
  dropCapability,
  encodeHelloAnswer,
  encodePong,
  encodeShut,
  HELLO_PING,
  type MainEvent,
  type PacketMethod,
  ProtocolError,
} from "@multifd/protocol";
import { announcedMethods, helloMethods } from "./hello-methods.js";
import { describeBlocks } from "./ram-block-list.js";
import { type Connections, Reception, type ReceptionTerms } from "./reception.js";
import { CONFIRM_VALUE } from "./source-peer.js";
import { SyncPairing } from "./sync-pairing.js";

/** How long a source may take to hear that we failed before we close. */
const REFUSE_MS = 1000;

type Command = Extract<MainEvent, { kind: "command" }>;
type Configuration = Extract<MainEvent, { kind: "configuration" }>;

export type QemuDestinationTerms = ReceptionTerms & {
  /** As in `DestinationJob`: for lz4 and auto a source that asks for a hello gets one. */
  readonly compression?: Compression;
  /**
   * RAM blocks that the source leaves out of its stream (capability x-ignore-shared), for their bytes are here
   * already. Left out: a source that leaves any out is refused.
   */
  readonly sharedBlocks?: ReadonlySet<string>;
};

export class QemuDestinationPeer implements DestinationPeer {
  readonly channels: number;
  readonly #reception: Reception;
  readonly #sharedBlocks: ReadonlySet<string> | null;
  #main: MainChannel | null = null;
  #returnPath = false;
  #configuration: Configuration | null = null;
  #ramSectionId = 0;
  #blocks: readonly RamBlock[] = [];
  #indexes: ReadonlyMap<string, number> = new Map();
  readonly #pairing = new SyncPairing();
  /** What we say hello for; null where we keep to QEMU's wire. */
  readonly #ours: readonly PacketMethod[] | null;
  /** What we answered a source with; null before, and once it has said its own hello. */
  #offered: readonly PacketMethod[] | null = null;
  #packetMethods: readonly PacketMethod[] | null = null;

  private constructor(reception: Reception, { channels, sharedBlocks, compression = "none" }: QemuDestinationTerms) {
    this.#reception = reception;
    this.#sharedBlocks = sharedBlocks ?? null;
    this.channels = channels;
    this.#ours = helloMethods(compression);
  }

  /** @throws {SystemError} when the address cannot be listened on. */
  static async listen(address: Address, terms: QemuDestinationTerms): Promise<QemuDestinationPeer> {
    return new QemuDestinationPeer(await Reception.listen(address, terms), terms);
  }

  /** As listened on, with the port that the system chose where 0 was given. */
  get address(): Address {
    return this.#reception.address;
  }

  get name(): string {
    return `source at ${formatAddress(this.address)}`;
  }

  get mainBytes(): number {
    return this.#main?.wireBytes ?? 0;
  }

  get packetMethods(): readonly PacketMethod[] | null {
    return this.#packetMethods;
  }

  async accept(signal: AbortSignal, onSurplus: (error: unknown) => void): Promise<Connections["channels"]> {
    const { main, channels } = await this.#reception.accept(signal, onSurplus);
    this.#main = new MainChannel(main);
    return channels;
  }

  async *words(): AsyncGenerator<SourceWord> {
    for await (const event of decodeMainStream(this.#main!.source)) {
      switch (event.kind) {
        case "configuration":
          this.#configuration = checkConfiguration(event, this.#sharedBlocks !== null);
          break;
        case "command":
          if (this.#asks(event)) yield { kind: "confirm", answer: () => this.#main!.write(encodePong(event.value)) };
          else await this.#obey(event);
          break;
        case "ram-blocks":
          this.#offered = null; // a hello comes before, or not at all
          this.#ramSectionId = event.sectionId;
          this.#blocks = describeBlocks(event.blocks, this.#configuration!.pageBytes);
          this.#checkShared();
          this.#indexes = new Map(this.#blocks.map((block, index) => [block.name, index]));
          yield { kind: "ram-blocks", blocks: this.#blocks };
          break;
        case "flush":
        case "section-end":
          if (!this.#pairing.pairs(event)) break;
          this.#reception.lastCall();
          yield { kind: "sync", phase: event.phase };
          break;
        case "zero-pages":
          this.#checkTaken(event.block);
          yield { kind: "pages", block: this.#indexes.get(event.block)!, pages: event.pages, bytes: null };
          break;
        case "page":
          this.#checkTaken(event.block);
          yield this.#page(event);
          break;
        case "devices":
          await this.#reception.allHeard();
          yield { kind: "devices", devices: this.#devices(event.bytes) };
          break;
      }
    }
  }

  #asks(command: Command): command is Extract<Command, { name: "ping" }> {
    return this.#returnPath && command.name === "ping" && command.value >= CONFIRM_VALUE;
  }

  async #obey(command: Command): Promise<void> {
    switch (command.name) {
      case "open-return-path":
        this.#returnPath = true;
        break;
      case "ping":
        if (this.#returnPath) await this.#answerPing(command.value);
        break;
      case "hello":
        this.#packetMethods = announcedMethods(this.#offered, command.hello);
        this.#offered = null;
        break;
      case "switchover-start":
        break;
    }
  }

  #checkShared(): void {
    for (const name of this.#sharedBlocks ?? []) {
      if (this.#blocks.some((block) => block.name === name)) continue;
      const known = this.#blocks.map((block) => `"${block.name}"`).join(", ");
      throw new ProtocolError("RAM_BLOCK_UNKNOWN", `the source has no RAM block "${name}" to share; it has ${known}`);
    }
  }

  #checkTaken(block: string): void {
    if (!this.#sharedBlocks?.has(block)) return;
    throw new ProtocolError(
      "RAM_BLOCK_SHARED",
      `a page of RAM block "${block}" came, though both sides share its file; the source has mapped another one, or not with share=on`,
    );
  }

  async #answerPing(value: number): Promise<void> {
    if (value === HELLO_PING && this.#ours !== null) {
      this.#offered = this.#ours;
      await this.#main!.write(encodeHelloAnswer({ methods: this.#ours }));
    }
    await this.#main!.write(encodePong(value));
  }

  #page(event: Extract<MainEvent, { kind: "page" }>): SourceWord {
    const pages = Uint32Array.of(event.page);
    return { kind: "pages", block: this.#indexes.get(event.block)!, pages, bytes: event.bytes };
  }

  #devices(sections: Uint8Array) {
    const { machineType, bytes } = this.#configuration!;
    // The devices are kept as of a guest whose RAM is all there, which it is.
    const configuration = this.#sharedBlocks === null ? bytes : dropCapability(bytes, CAPABILITY_IGNORE_SHARED);
    return { machineType, ramSectionId: this.#ramSectionId, configuration, sections };
  }

  async acknowledge(): Promise<boolean> {
    if (!this.#returnPath) return false;
    await this.#main!.write(encodeShut(0));
    await this.#main!.end();
    return true;
  }

  async refuse(): Promise<void> {
    await this.#reception.settle(); // also where we were given up before all had come
    const main = this.#main;
    if (main === null) return;
    try {
      if (this.#returnPath) await main.write(encodeShut(1));
      await main.end();
      await main.drain(REFUSE_MS);
    } catch {
      // The main channel is broken: the source knows without our word.
    }
  }

  close(): void {
    this.#reception.close();
    this.#main?.destroy();
  }
}

function checkConfiguration(configuration: Configuration, shares: boolean): Configuration {
  if (configuration.capabilities.includes(CAPABILITY_IGNORE_SHARED) === shares) return configuration;
  throw new ProtocolError(
    "CAPABILITY",
    shares
      ? "the source sends all of its RAM; switch its capability x-ignore-shared on, or take the RAM in without sharing"
      : "the source leaves shared RAM out of its stream (capability x-ignore-shared); switch that off, or no guest arrives; or name the RAM files that are shared with it (receive --ignore-shared)",
  );
}
