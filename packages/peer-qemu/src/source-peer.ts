/**
 * The destination side of QEMU's wire: writes the main channel, listens to the return path.
 *
 *   QEVM, configuration, OPEN_RETURN_PATH, PING, RAM set-up │ SYNC, FLUSH │ parts … │ complete │ devices, end
 *
 * A FLUSH (to an older destination: a section's end) goes out only after every channel has
 * written its SYNC, for the destination stops each channel at its SYNC until it has
 * read the FLUSH: the other order could block both sides for good. The round's zero
 * pages, where they go on main, stand before it: so none of them can meet a
 * page of another round. The return path is opened unless it is known to be useless:
 * without its SHUT a source only knows that it has sent everything, not that it arrived.
 * Source: QEMU 10.0, migration/savevm.c, qemu_savevm_state_setup(); migration/ram.c, ram_save_setup().
 */
import { setImmediate as turn } from "node:timers/promises";
import { type Channel, formatAddress, type MainChannel } from "@multifd/channel";
import {
  type DevicePart,
  type ListedBlock,
  LOADED_MS,
  type RoundPhase,
  type SourcePeer,
  type ZeroPages,
} from "@multifd/engine";
import {
  addCapability,
  CAPABILITY_IGNORE_SHARED,
  ChannelError,
  type Compression,
  decodeReturnPath,
  emptyVmDescription,
  encodeCommand,
  encodeConfiguration,
  encodeFileHeader,
  encodeFlush,
  encodeRamComplete,
  encodeRamPart,
  encodeRamSectionEnd,
  encodeRamStart,
  encodeStreamEnd,
  encodeZeroPages,
  HELLO_PING,
  type PacketMethod,
  ProtocolError,
  type RamBlockEntry,
  type StreamCommand,
} from "@multifd/protocol";
import { connectDestination, type DestinationTerms } from "./connect-destination.js";
import { type Dialect, dialectOf } from "./dialect.js";
import { Greeting, hear } from "./greeting.js";
import { helloMethods } from "./hello-methods.js";

export type QemuSourceTerms = DestinationTerms & {
  /** What of the destination's dialect its machine type does not tell. */
  readonly dialect?: Partial<Dialect>;
  /** `none` where the destination's words cannot reach us. */
  readonly returnPath?: "open" | "none";
  /** As in `SourceJob`: for lz4 and auto a hello is asked for. */
  readonly compression?: Compression;
};

/** Where only RAM moves there is no machine; the name has to be something. */
const NO_MACHINE = "none";
/** The RAM section's number where no device part came with one. */
const RAM_SECTION_ID = 1;
const PING_VALUE = 1;
/** A PING of this value or a higher one asks whether everything before it is loaded; QEMU's own are 1 and 0x42. */
export const CONFIRM_VALUE = 0x6d660000;
/** How long a destination without return path may take to read the rest before we close. */
const CLOSE_MS = 5000;

export class QemuSourcePeer implements SourcePeer {
  readonly name: string;
  readonly channels: number;
  readonly #terms: QemuSourceTerms;
  #main: MainChannel | null = null;
  #ramSectionId = RAM_SECTION_ID;
  #pageBytes = 0;
  #dialect: Dialect;
  #confirmed = CONFIRM_VALUE;
  #onPong: (value: number) => void = () => {};
  #packetMethods: readonly PacketMethod[] | null = null;
  readonly #greeting: Greeting | null;
  /** Ends a `confirm` that nobody waits for any more. */
  #endConfirm: () => void = () => {};
  /** Set before the last write: the answer may come before that is confirmed. */
  #finishing = false;
  /** The destination has answered something: it reads what we send. */
  readonly #answered: Promise<void>;
  #answer: () => void = () => {};
  readonly #finished: Promise<void>;
  #finish: () => void = () => {};

  constructor(terms: QemuSourceTerms) {
    this.#terms = terms;
    this.#dialect = dialectOf(NO_MACHINE, terms.dialect ?? {});
    const methods = helloMethods(terms.compression ?? "none");
    this.#greeting = methods === null || terms.returnPath === "none" ? null : new Greeting(methods);
    this.#answered = new Promise((resolve) => {
      this.#answer = resolve;
    });
    this.#finished = new Promise((resolve) => {
      this.#finish = resolve;
    });
    this.channels = terms.channels;
    this.name = `destination at ${formatAddress(terms.address)}`;
  }

  get mainBytes(): number {
    return this.#main?.wireBytes ?? 0;
  }

  get packetMethods(): readonly PacketMethod[] | null {
    return this.#packetMethods;
  }

  async connect(signal: AbortSignal): Promise<readonly Channel[]> {
    const { main, channels } = await connectDestination(this.#terms, signal);
    this.#main = main;
    return channels;
  }

  zeroPagesGo(devices: DevicePart | null): Dialect["zeroPages"] {
    return this.#dialectFor(devices).zeroPages;
  }

  async begin(blocks: readonly ListedBlock[], devices: DevicePart | null): Promise<void> {
    this.#pageBytes = blocks[0]!.pageBytes;
    this.#ramSectionId = devices?.ramSectionId ?? RAM_SECTION_ID;
    this.#dialect = this.#dialectFor(devices);
    const configuration = devices?.configuration ?? encodeConfiguration(bareConfiguration(this.#pageBytes));
    const ignoreShared = blocks.some(({ sharedAt }) => sharedAt !== undefined);
    await this.#write(
      encodeFileHeader(),
      ignoreShared ? addCapability(configuration, CAPABILITY_IGNORE_SHARED) : configuration,
      ...this.#returnPathCommands(),
    );
    this.#packetMethods = (await this.#greeting?.answered(this.#terms.connectTimeoutMs)) ?? null;
    await this.#write(
      ...(this.#packetMethods === null ? [] : [encodeCommand(helloOf(this.#packetMethods))]),
      encodeRamStart(this.#ramSectionId, ignoreShared ? blocks.map(withAddress) : blocks),
    );
  }

  #returnPathCommands(): readonly Uint8Array[] {
    if (this.#terms.returnPath === "none") return [];
    const value = this.#greeting === null ? PING_VALUE : HELLO_PING;
    return [encodeCommand({ name: "open-return-path" }), encodeCommand({ name: "ping", value })];
  }

  async closeRound(phase: RoundPhase, zeroPages: Iterable<ZeroPages>): Promise<void> {
    const { syncPer } = this.#dialect;
    let before = this.#sectionStart(phase);
    for (const { block, pages } of zeroPages) {
      await this.#write(...before, encodeZeroPages(block.name, pages, block.pageBytes));
      before = [];
    }
    const flush = syncPer === "round" ? [encodeFlush()] : [];
    await this.#write(...before, ...flush, encodeRamSectionEnd(this.#ramSectionId));
  }

  #sectionStart(phase: RoundPhase): readonly Uint8Array[] {
    const id = this.#ramSectionId;
    switch (phase) {
      case "setup": // open since `begin`
        return [];
      case "iterate":
        return [encodeRamPart(id)];
      case "complete": {
        const command = this.#dialect.switchoverStart ? [encodeCommand({ name: "switchover-start" })] : [];
        return [...command, encodeRamComplete(id)];
      }
    }
  }

  /** Needs `verdict` to be under way, and the return path. */
  async confirm(): Promise<void> {
    this.#endConfirm();
    const value = this.#confirmed++;
    const askedMs = performance.now();
    let timer: NodeJS.Timeout | undefined;
    const late = () =>
      new ChannelError(
        "NOT_LOADED",
        `the destination did not say within ${LOADED_MS} ms that it has loaded what it got; see what its QEMU does`,
      );
    const answered = new Promise<void>((resolve, reject) => {
      this.#onPong = (came) => came === value && resolve();
      timer = setTimeout(() => reject(late()), LOADED_MS);
      this.#endConfirm = () => reject(new ChannelError("CHANNEL_BROKEN", "main channel: closed at this end"));
    });
    answered.catch(() => {}); // told below
    try {
      await this.#write(encodeCommand({ name: "ping", value }));
      await answered;
      // What came right behind the answer counts, and so does a time in which we stood still ourselves.
      await turn();
      await turn();
    } finally {
      clearTimeout(timer);
    }
    if (performance.now() - askedMs > LOADED_MS) throw late();
  }

  async finish(devices: DevicePart | null): Promise<void> {
    // A small guest fits into the sockets of somebody who never reads: it is not given away before a first answer.
    if (this.#terms.returnPath !== "none") await this.#answered;
    this.#finishing = true;
    await this.#write(devices?.sections ?? encodeStreamEnd(emptyVmDescription(this.#pageBytes)));
    this.#finish();
  }

  async verdict(): Promise<boolean> {
    const main = this.#main!;
    if (this.#terms.returnPath === "none") {
      await this.#finished;
      await main.end();
      await main.drain(CLOSE_MS);
      return false;
    }
    for await (const message of decodeReturnPath(main.source)) {
      if (message.kind === "pong") {
        this.#answer();
        this.#onPong(message.value);
      }
      if (message.kind === "hello" || message.kind === "pong") hear(this.#greeting, message);
      if (message.kind !== "shut") continue;
      if (message.status !== 0) {
        throw new ProtocolError(
          "PEER_REFUSED",
          `the destination reports that it failed (status ${message.status}); its own log says why`,
        );
      }
      if (this.#finishing) return true;
      throw new ProtocolError("RETURN_PATH_EARLY", "the destination reports success before everything was sent");
    }
    throw new ChannelError("CHANNEL_BROKEN", "main channel: the destination closed it without a word");
  }

  close(): void {
    this.#endConfirm();
    this.#main?.destroy();
  }

  #dialectFor(devices: DevicePart | null): Dialect {
    return dialectOf(devices?.machineType ?? NO_MACHINE, this.#terms.dialect ?? {});
  }

  #write(...pieces: readonly Uint8Array[]): Promise<void> {
    return this.#main!.write(Buffer.concat(pieces));
  }
}

/** With x-ignore-shared every block bears an address, and only those of shared ones are looked at. */
function withAddress({ name, lengthBytes, sharedAt }: ListedBlock): RamBlockEntry {
  return { name, lengthBytes, address: sharedAt ?? 0 };
}

function helloOf(methods: readonly PacketMethod[]): StreamCommand {
  return { name: "hello", hello: { methods } };
}

function bareConfiguration(pageBytes: number): { machineType: string; targetPageBits?: number } {
  return pageBytes === 4096
    ? { machineType: NO_MACHINE }
    : { machineType: NO_MACHINE, targetPageBits: Math.log2(pageBytes) };
}
