/**
 * Watched guest: an embedder's guest in this process, whose every pause and resume is noted.
 *
 * Its RAM is a memfd and its vCPU a timer that writes pages and then marks them in
 * the dirty bitmap, as a hypervisor's log would. So a test can hold the engine to
 * its one rule, and compare every byte with what a destination got.
 */
import assert from "node:assert/strict";
import { BitmapTracker, type DeviceStateProvider, type RamSource, type SourceGuest } from "@multifd/engine";
import { describeRamBlock, type RamBlock } from "@multifd/memory";
import { closeDescriptor, createMemfd, type Mapping, mapFile, readMemory, unmap, writeMemory } from "@multifd/native";

import type { WholeState } from "./receiving-guest.js";

const PAGE_BYTES = 4096;
/** Pages that its vCPU writes at each tick. */
const PAGES_PER_TICK = 16;
const TICK_MS = 1;
/** So many writes, and one of them makes its page zero again: a page that stays as it was before is seen. */
const CLEARED_EVERY = 5;
/** Transfers under way at once. */
const TRANSFERS = 64;
const ZEROS = Buffer.alloc(PAGE_BYTES);

export type WatchedGuestOptions = {
  readonly bytes: number;
  readonly states?: readonly WholeState[];
  /** Devices that do more than to give a state. */
  readonly devices?: readonly DeviceStateProvider[];
  /** What a test does at the moment that the guest is asked for one more device: paused, and nothing of it sent. */
  readonly onDeviceStates?: () => Promise<void>;
  readonly onResume?: () => Promise<void>;
  /** A disk reads into its RAM all the time: a page is marked when its transfer begins, and written when it ends. */
  readonly transfers?: boolean;
  /** It stops some time after it was told to: when this resolves. */
  readonly stopsWhen?: () => Promise<void>;
  /** Nobody writes its RAM, and one round moves it. */
  readonly stopped?: boolean;
};

export class WatchedGuest implements SourceGuest {
  readonly ram: readonly RamSource[];
  readonly tracker: BitmapTracker | null;
  readonly devices: readonly DeviceStateProvider[];
  /** `pause` and `resume` in the order of their calls. */
  readonly calls: ("pause" | "resume")[] = [];
  readonly holdTransfers?: (harvest: () => Promise<void>) => Promise<void>;
  readonly stopSoon?: () => Promise<void>;
  readonly #options: WatchedGuestOptions;
  readonly #block: RamBlock;
  readonly #mapping: Mapping;
  readonly #dirty: Int32Array;
  readonly #transfers: number[] = [];
  #timer: NodeJS.Timeout | null = null;
  #writes = 0;

  constructor(options: WatchedGuestOptions) {
    this.#options = options;
    this.#block = describeRamBlock("ram", options.bytes, PAGE_BYTES)!;
    const descriptor = createMemfd("watched guest", options.bytes);
    this.#mapping = mapFile(descriptor, { lengthBytes: options.bytes, writable: true });
    this.ram = [{ block: this.#block, descriptor, offsetBytes: 0 }];
    const bitmap = new SharedArrayBuffer(Math.ceil(this.#block.pageCount / 64) * 8);
    this.#dirty = new Int32Array(bitmap);
    this.tracker = options.stopped ? null : new BitmapTracker([bitmap]);
    const { states = [], devices = [], onDeviceStates } = options;
    this.devices = [
      ...states.map(({ idstr, instanceId, bytes }) => ({ idstr, instanceId, save: () => this.#save(bytes) })),
      ...devices,
      ...(onDeviceStates ? [{ idstr: "hook", instanceId: 0, save: () => this.#save(onDeviceStates()) }] : []),
    ];
    if (options.transfers) {
      this.holdTransfers = async (harvest) => {
        this.#endTransfers(0);
        await harvest();
      };
    }
    const { stopsWhen } = options;
    if (stopsWhen) {
      this.stopSoon = async () => {
        await stopsWhen();
        this.#stop();
      };
    }
    // Every second page holds something from the start, different on each.
    const page = Buffer.alloc(PAGE_BYTES);
    for (let index = 0; index < this.#block.pageCount; index += 2) {
      page.fill(`page ${index} `);
      writeMemory(this.#mapping, index * PAGE_BYTES, page);
    }
    if (!options.stopped) this.#run();
  }

  get isRunning(): boolean {
    return this.#timer !== null;
  }

  /** Pages written by its vCPU so far. */
  get writes(): number {
    return this.#writes;
  }

  #run(): void {
    this.#timer = setInterval(() => this.write(), TICK_MS);
  }

  /** What the vCPU does at each tick; a test that must not depend on the clock does it itself. */
  write(): void {
    const stamp = Buffer.alloc(8);
    for (let i = 0; i < PAGES_PER_TICK; i++) {
      const page = (this.#writes * 7919) % this.#block.pageCount;
      stamp.writeDoubleBE(++this.#writes);
      if (this.#writes % CLEARED_EVERY === 0) writeMemory(this.#mapping, page * PAGE_BYTES, ZEROS);
      else writeMemory(this.#mapping, page * PAGE_BYTES + ((this.#writes * 8) % PAGE_BYTES), stamp);
      this.#mark(page);
    }
    if (this.#options.transfers) this.#transfer();
  }

  #mark(page: number): void {
    Atomics.or(this.#dirty, page >>> 5, 1 << (page & 31));
  }

  /** Begins one and ends the oldest. */
  #transfer(): void {
    const page = (this.#writes * 31) % this.#block.pageCount;
    this.#mark(page);
    this.#transfers.push(page);
    this.#endTransfers(TRANSFERS);
  }

  #endTransfers(left: number): void {
    for (const page of this.#transfers.splice(0, this.#transfers.length - left)) {
      writeMemory(this.#mapping, page * PAGE_BYTES, Buffer.alloc(PAGE_BYTES, `read ${this.#writes} `));
    }
  }

  async pause(): Promise<void> {
    this.calls.push("pause");
    assert.ok(this.isRunning === (this.stopSoon === undefined) || this.tracker === null, "paused twice, or too soon");
    this.#stop();
    this.#endTransfers(0);
  }

  async resume(): Promise<void> {
    this.calls.push("resume");
    assert.ok(!this.isRunning, "resumed while it ran");
    this.#run();
    await this.#options.onResume?.();
  }

  async *#save(state: Uint8Array | Promise<void>): AsyncGenerator<Uint8Array, void> {
    assert.ok(!this.isRunning, "asked for its devices while it ran");
    const bytes = await state;
    if (bytes) yield bytes;
  }

  /** All of its RAM. */
  contents(): Buffer {
    const bytes = Buffer.alloc(this.#block.lengthBytes);
    readMemory(this.#mapping, 0, bytes);
    return bytes;
  }

  #stop(): void {
    if (this.#timer !== null) clearInterval(this.#timer);
    this.#timer = null;
  }

  close(): void {
    this.#stop();
    unmap(this.#mapping);
    closeDescriptor(this.ram[0]!.descriptor);
  }
}
