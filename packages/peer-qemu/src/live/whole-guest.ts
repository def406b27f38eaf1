/**
 * Whole guest: a live QEMU's guest with all of its RAM, as a source for a snapshot.
 *
 * The shared blocks come out of QEMU's RAM files, round by round. What QEMU shares with nobody (firmware, video
 * memory) comes out of its device stream, at the stop: it is laid into memfds of ours, zeros until then, and counts as
 * written once. What follows RAM in that stream is the snapshot's device part, and it is known just as late.
 */
import { writeSync } from "node:fs";
import type { DevicePart, RamSource, SourceGuest } from "@multifd/engine";
import { type DirtyBitmap, type DirtyTracker, describeRamBlock, type RamBlock } from "@multifd/memory";
import { closeDescriptor, createMemfd } from "@multifd/native";
import { ChunkSource, ConfigError, decodeMainStream, encodeConfiguration, ProtocolError } from "@multifd/protocol";
import type { QemuFacts } from "../drive/qemu-facts.js";
import type { DeviceCapture } from "./device-capture.js";
import { DEVICE_STREAM_BYTES_MAX, oneChunk } from "./device-stream.js";
import type { SourceQemu } from "./source-qemu.js";

const PAGE_BYTES = 4096;
/** Greater than any that QEMU gives: it counts from 0, and only what was captured tells how far. */
const RAM_SECTION_ID = 2 ** 31 - 1;

type PrivateBlock = { readonly block: RamBlock; readonly descriptor: number; readonly written: Set<number> };

export class WholeGuest implements SourceGuest {
  readonly ram: readonly RamSource[];
  readonly tracker: DirtyTracker;
  readonly devices = [];
  readonly holdTransfers?: (harvest: () => Promise<void>) => Promise<void>;
  /** Its sections are there once the guest is paused. */
  readonly part: DevicePart;
  readonly #live: SourceQemu;
  readonly #capture: DeviceCapture;
  readonly #private: readonly PrivateBlock[];
  #sections: Uint8Array | null = null;
  #resumed: Promise<void> | null = null;
  #pausedMs = 0;
  #stoodStillMs: number | null = null;

  constructor(facts: QemuFacts, live: SourceQemu, capture: DeviceCapture) {
    this.#live = live;
    this.#capture = capture;
    const shared = new Set(live.ram.map(({ block }) => block.name));
    this.#private = facts.ramBlocks.filter(({ name }) => !shared.has(name)).map(keepPrivate);
    this.ram = [...live.ram, ...this.#private.map(({ block, descriptor }) => ({ block, descriptor, offsetBytes: 0 }))];
    this.tracker = new WholeTracker(live.tracker, live.ram.length, this.#private);
    if (live.holdTransfers !== undefined) this.holdTransfers = live.holdTransfers;
    const { machineType } = facts;
    const sections = () => this.#sections!;
    this.part = {
      machineType,
      ramSectionId: RAM_SECTION_ID,
      configuration: encodeConfiguration({ machineType }),
      get sections() {
        return sections();
      },
    };
  }

  /** For how long the guest has stood still; null where it has not been resumed. */
  get downtimeMs(): number | null {
    return this.#stoodStillMs;
  }

  async pause(): Promise<void> {
    this.#pausedMs = performance.now();
    await this.#live.pause();
    await this.#read(await this.#capture.stream());
  }

  /** Once, however often it is asked for: when all has been read, or at a failure before. */
  resume(): Promise<void> {
    this.#resumed ??= this.#letGo();
    return this.#resumed;
  }

  async #letGo(): Promise<void> {
    await this.#live.resume();
    this.#stoodStillMs = Math.round(performance.now() - this.#pausedMs);
  }

  /** @throws {ConfigError} RAM_BLOCK_UNKNOWN; {ProtocolError} what is wrong with the stream. */
  async #read(stream: Uint8Array): Promise<void> {
    const source = new ChunkSource(oneChunk(stream));
    for await (const event of decodeMainStream(source, { deviceBytesMax: DEVICE_STREAM_BYTES_MAX })) {
      if (event.kind === "ram-blocks") this.#checkBlocks(event.blocks);
      else if (event.kind === "page") this.#write(event.block, event.page, event.bytes);
      else if (event.kind === "zero-pages") for (const page of event.pages) this.#write(event.block, page, null);
      else if (event.kind === "devices") this.#sections = Uint8Array.from(event.bytes);
    }
  }

  #checkBlocks(listed: readonly { readonly name: string; readonly lengthBytes: number }[]): void {
    const name = (block: { readonly name: string; readonly lengthBytes: number }) =>
      `"${block.name}" (${block.lengthBytes} bytes)`;
    const due = this.ram.map(({ block }) => name(block));
    const came = listed.map(name);
    const odd = [...due.filter((one) => !came.includes(one)), ...came.filter((one) => !due.includes(one))];
    if (odd.length === 0) return;
    throw new ConfigError(
      "RAM_BLOCK_UNKNOWN",
      `QEMU's list of RAM blocks and its stream do not agree on ${odd.join(", ")}, as with RAM of a device that does not migrate; save this guest with multifd qemu save`,
    );
  }

  #write(name: string, page: number, bytes: Uint8Array | null): void {
    const kept = this.#private.find(({ block }) => block.name === name);
    if (kept === undefined || page >= kept.block.pageCount) {
      throw new ProtocolError("RAM_BLOCK_SHARED", `page ${page} of RAM block "${name}" came with QEMU's devices`);
    }
    if (bytes === null && !kept.written.has(page)) return; // it is zero already
    writeSync(kept.descriptor, bytes ?? new Uint8Array(PAGE_BYTES), 0, PAGE_BYTES, page * PAGE_BYTES);
    kept.written.add(page);
  }

  /** Closes what it made; RAM files and QEMU are the caller's. */
  close(): void {
    for (const { descriptor } of this.#private) closeDescriptor(descriptor);
  }
}

function keepPrivate({ name, usedBytes }: { readonly name: string; readonly usedBytes: number }): PrivateBlock {
  const block = describeRamBlock(name, usedBytes, PAGE_BYTES);
  if (block === null) throw new ConfigError("RAM_SIZE", `RAM block "${name}" has ${usedBytes} bytes, no whole pages`);
  return { block, descriptor: createMemfd(`multifd:${name}`.slice(0, 200), usedBytes), written: new Set() };
}

/** The shared blocks' tracker, and behind them the private blocks: written once, at the stop. */
class WholeTracker implements DirtyTracker {
  readonly name: string;
  readonly #shared: DirtyTracker;
  readonly #sharedCount: number;
  readonly #private: readonly PrivateBlock[];

  constructor(shared: DirtyTracker, sharedCount: number, own: readonly PrivateBlock[]) {
    this.name = shared.name;
    this.#shared = shared;
    this.#sharedCount = sharedCount;
    this.#private = own;
  }

  start(blocks: readonly RamBlock[]): Promise<void> {
    return this.#shared.start(blocks.slice(0, this.#sharedCount));
  }

  harvest(index: number, dirty: DirtyBitmap): void {
    if (index < this.#sharedCount) this.#shared.harvest(index, dirty);
    else for (const page of this.#private[index - this.#sharedCount]!.written) dirty.set(page);
  }

  stop(): Promise<void> {
    return this.#shared.stop();
  }
}
