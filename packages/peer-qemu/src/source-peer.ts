/**
 * The destination side of QEMU's wire: writes the main channel, listens to the return path.
 *
 *   QEVM, configuration, OPEN_RETURN_PATH, PING, RAM set-up │ SYNC, FLUSH │ parts … │ complete │ devices, end
 *
 * A FLUSH goes out only after every channel has written its SYNC, for the
 * destination stops each channel at its SYNC until it has read the FLUSH: the other order
 * could block both sides for good. The return path is always opened: without its
 * SHUT a source only knows that it has sent everything, not that it arrived.
 * Source: QEMU 10.0, migration/savevm.c, qemu_savevm_state_setup(); migration/ram.c, ram_save_setup().
 */
import { type Address, Channel, formatAddress, MainChannel } from "@multifd/channel";
import type { DevicePart, RoundPhase, SourcePeer } from "@multifd/engine";
import type { RamBlock } from "@multifd/memory";
import { sendBytes } from "@multifd/native";
import {
  ChannelError,
  decodeReturnPath,
  emptyVmDescription,
  encodeCommand,
  encodeConfiguration,
  encodeFileHeader,
  encodeFlush,
  encodeMultifdInit,
  encodeRamComplete,
  encodeRamPart,
  encodeRamSectionEnd,
  encodeRamStart,
  encodeStreamEnd,
  ProtocolError,
} from "@multifd/protocol";

export type QemuSourceTerms = {
  readonly address: Address;
  readonly channels: number;
  /** The VM's, borne by every channel's init message; zeros when it has none. */
  readonly uuid?: Uint8Array;
  readonly connectTimeoutMs: number;
};

/** Where only RAM moves there is no machine; the name has to be something. */
const NO_MACHINE = "none";
/** The RAM section's number where no device part came with one. */
const RAM_SECTION_ID = 1;
const PING_VALUE = 1;

export class QemuSourcePeer implements SourcePeer {
  readonly name: string;
  readonly channels: number;
  readonly #terms: QemuSourceTerms;
  #main: MainChannel | null = null;
  #ramSectionId = RAM_SECTION_ID;
  #pageBytes = 0;
  #finished = false;

  constructor(terms: QemuSourceTerms) {
    this.#terms = terms;
    this.channels = terms.channels;
    this.name = `destination at ${formatAddress(terms.address)}`;
  }

  get mainBytes(): number {
    return this.#main?.wireBytes ?? 0;
  }

  async connect(signal: AbortSignal): Promise<readonly Channel[]> {
    const { address, connectTimeoutMs, channels } = this.#terms;
    const opened: Channel[] = [];
    // Whoever gives up does not wait for us: what is opened after that is ours to close.
    const open = async () => {
      const channel = await Channel.connect(address, connectTimeoutMs);
      if (!signal.aborted) return channel;
      channel.close();
      throw new ChannelError("CANCELLED", "cancelled while connecting");
    };
    this.#main = new MainChannel((await open()).release());
    try {
      for (let channel = 0; channel < channels; channel++) {
        opened.push(await open());
        // At once: a QEMU destination reads it synchronously, and a silent connection freezes it.
        sendBytes(
          opened[channel]!.descriptor,
          encodeMultifdInit({ uuid: this.#terms.uuid ?? new Uint8Array(16), channel }),
        );
      }
      return opened;
    } catch (error) {
      for (const channel of opened) channel.close();
      throw error;
    }
  }

  async begin(blocks: readonly RamBlock[], devices: DevicePart | null): Promise<void> {
    this.#pageBytes = blocks[0]!.pageBytes;
    this.#ramSectionId = devices?.ramSectionId ?? RAM_SECTION_ID;
    await this.#write(
      encodeFileHeader(),
      devices?.configuration ?? encodeConfiguration(bareConfiguration(this.#pageBytes)),
      encodeCommand({ name: "open-return-path" }),
      encodeCommand({ name: "ping", value: PING_VALUE }),
      encodeRamStart(this.#ramSectionId, blocks),
    );
  }

  async closeRound(phase: RoundPhase): Promise<void> {
    const id = this.#ramSectionId;
    const end = [encodeFlush(), encodeRamSectionEnd(id)];
    switch (phase) {
      case "setup": // its section is open since `begin`
        return this.#write(...end);
      case "iterate":
        return this.#write(encodeRamPart(id), ...end);
      case "complete":
        return this.#write(encodeRamComplete(id), ...end);
    }
  }

  async finish(devices: DevicePart | null): Promise<void> {
    this.#finished = true; // before the write: the answer may come before the write is confirmed
    await this.#write(devices?.sections ?? encodeStreamEnd(emptyVmDescription(this.#pageBytes)));
  }

  async verdict(): Promise<void> {
    for await (const message of decodeReturnPath(this.#main!.source)) {
      if (message.kind !== "shut") continue;
      if (message.status !== 0) {
        throw new ProtocolError(
          "PEER_REFUSED",
          `the destination reports that it failed (status ${message.status}); its own log says why`,
        );
      }
      if (this.#finished) return;
      throw new ProtocolError("RETURN_PATH_EARLY", "the destination reports success before everything was sent");
    }
    throw new ChannelError("CHANNEL_BROKEN", "main channel: the destination closed it without a word");
  }

  close(): void {
    this.#main?.destroy();
  }

  #write(...pieces: readonly Uint8Array[]): Promise<void> {
    return this.#main!.write(Buffer.concat(pieces));
  }
}

function bareConfiguration(pageBytes: number): { machineType: string; targetPageBits?: number } {
  return pageBytes === 4096
    ? { machineType: NO_MACHINE }
    : { machineType: NO_MACHINE, targetPageBits: Math.log2(pageBytes) };
}
