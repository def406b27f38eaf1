/**
 * Multifd inlet: takes a Cloud Hypervisor guest in from another relay, as multifd packets, and hands it to an outlet.
 *
 * Its RAM blocks come before its Config, which introduces it; what arrives in a round is sent on before the next
 * one is let in. A page that came as zeros and was never anything else here is left out, as the
 * destination's RAM begins as zeros, too.
 */
import {
  BitmapTracker,
  collectDeviceState,
  type DestinationGuest,
  type DeviceName,
  type DevicePart,
  type RamPlacement,
} from "@multifd/engine";
import { DirtyBitmap, type RamBlock } from "@multifd/memory";
import { seekData, seekHole } from "@multifd/native";
import { CONFIG_BYTES_MAX, ProtocolError, STATE_BYTES_MAX } from "@multifd/protocol";
import { describeMemory, type HandOver } from "../source-job.js";
import { CONFIG_DEVICE, HAND_OVER_BYTES_MAX, HAND_OVER_DEVICE, STATE_DEVICE } from "./device-names.js";
import type { Outlet } from "./outlet.js";
import { PassingFiles } from "./passing-files.js";
import { PassingRam } from "./passing-ram.js";

export class MultifdInlet implements DestinationGuest {
  readonly #outlet: Outlet;
  #blocks: readonly RamBlock[] = [];
  #files: PassingFiles | null = null;
  #passing: PassingRam | null = null;
  #arrived: BitmapTracker | null = null;
  /** What arrived in the round being looked at, by block. */
  #came: readonly DirtyBitmap[] = [];
  #hasBegun = false;
  #state: Uint8Array | null = null;
  #how: HandOver | null = null;

  constructor(outlet: Outlet) {
    this.#outlet = outlet;
  }

  /** The source is alive, whatever it is doing. */
  live(): void {
    this.#passing?.live();
  }

  async placeRam(blocks: readonly RamBlock[]): Promise<readonly RamPlacement[]> {
    this.#blocks = blocks;
    this.#files = new PassingFiles(blocks);
    this.#passing = new PassingRam(blocks);
    const marks = blocks.map(({ pageCount }) => new SharedArrayBuffer(Math.ceil(pageCount / 64) * 8));
    this.#arrived = new BitmapTracker(marks);
    this.#came = blocks.map(({ pageCount }) => new DirtyBitmap(pageCount));
    return this.#files.placements.map((placement, index) => ({ ...placement, arrived: marks[index]! }));
  }

  async loadDeviceState(device: DeviceName, state: AsyncIterable<Uint8Array>): Promise<void> {
    switch (device.idstr) {
      case CONFIG_DEVICE.idstr:
        return this.#begin(await collectDeviceState(device, state, CONFIG_BYTES_MAX));
      case STATE_DEVICE.idstr:
        this.#state = await collectDeviceState(device, state, STATE_BYTES_MAX);
        return;
      case HAND_OVER_DEVICE.idstr:
        this.#how = readHandOver(await collectDeviceState(device, state, HAND_OVER_BYTES_MAX));
        return;
      default:
        throw foreign(`device "${device.idstr}"`);
    }
  }

  async #begin(config: Uint8Array): Promise<void> {
    const map = describeMemory(config);
    const ram = map.blocks.map(({ block }, index) => {
      const placed = this.#files!.ram[index];
      if (placed?.block.name === block.name && placed.block.lengthBytes === block.lengthBytes) return placed;
      throw foreign(`RAM block "${this.#blocks[index]?.name ?? "none"}", which Config calls "${block.name}"`);
    });
    if (ram.length !== this.#blocks.length)
      throw foreign(`${this.#blocks.length} RAM blocks, where Config has ${ram.length}`);
    await this.#outlet.begin({ config, map, ram, passing: this.#passing! });
    this.#hasBegun = true;
  }

  async loadDevices({ sections }: DevicePart): Promise<void> {
    if ((sections[0] ?? END_OF_SECTIONS) !== END_OF_SECTIONS) throw foreign("a QEMU's devices");
  }

  async roundIn(): Promise<void> {
    if (!this.#hasBegun) throw foreign("RAM without Config before it");
    for (const [index, came] of this.#came.entries()) {
      this.#arrived!.harvest(index, came);
      dropHoles(came, this.#files!.ram[index]!.descriptor, this.#blocks[index]!.pageBytes);
      this.#passing!.markPages(index, came);
      came.clear();
    }
    await this.#passing!.left();
  }

  async prepare(): Promise<void> {
    if (this.#state === null || this.#how === null) throw missing();
    await this.#outlet.load(this.#state);
  }

  async commit(): Promise<void> {
    if (this.#how === null) throw missing();
    await this.#outlet.commit(this.#how);
  }

  async abandon(): Promise<void> {
    await this.#outlet.cancel();
    this.close();
  }

  /** Frees the RAM; nobody may be sending it any more. Idempotent. */
  close(): void {
    this.#files?.close();
    this.#files = null;
  }
}

/** What a device part without devices begins with. Source: QEMU 10.2, migration/savevm.h, QEMU_VM_EOF. */
const END_OF_SECTIONS = 0;

/** Strikes off what the file has no storage for. Asks the file once per run of pages, for there may be very many of them in all. */
function dropHoles(came: DirtyBitmap, descriptor: number, pageBytes: number): void {
  const { pageCount } = came;
  for (let first = nextPage(came, 0); first < pageCount; first = nextPage(came, first)) {
    let end = first + 1;
    while (end < pageCount && came.has(end)) end++;
    while (first < end) {
      const data = seekData(descriptor, first * pageBytes);
      const from = data === null ? end : Math.min(end, Math.floor(data / pageBytes));
      for (; first < from; first++) came.words[first >>> 5]! &= ~(1 << (first & 31));
      if (first < end) first = Math.min(end, Math.ceil(seekHole(descriptor, first * pageBytes) / pageBytes));
    }
  }
}

/** The first page that is set, from `page` on; the number of pages where none is. */
function nextPage({ words, pageCount }: DirtyBitmap, page: number): number {
  let at = page;
  while (at < pageCount) {
    const word = words[at >>> 5]! >>> (at & 31);
    if (word === 0) at = ((at >>> 5) + 1) * 32;
    else return at + 31 - Math.clz32(word & -word);
  }
  return pageCount;
}

function readHandOver(bytes: Uint8Array): HandOver {
  const text = Buffer.from(bytes).toString("latin1");
  if (text === "resume" || text === "leave-paused") return text;
  throw foreign(`the handover "${text}"`);
}

function foreign(what: string): ProtocolError {
  return new ProtocolError(
    "RELAY_FOREIGN",
    `${what} came, which is none of a Cloud Hypervisor guest's; let a relay with --to-protocol multifd send here`,
  );
}

function missing(): ProtocolError {
  return new ProtocolError("DEVICE_MISSING", "the stream ended without State, or without saying how it is handed over");
}
