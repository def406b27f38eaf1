/**
 * Receiving guest: an embedder's destination in this process, which keeps what it got in memory.
 *
 * A test reads its RAM and device states afterwards, or has it refuse at one step.
 */
import {
  collectDeviceState,
  type DestinationGuest,
  type DeviceName,
  type DevicePart,
  type RamPlacement,
} from "@multifd/engine";
import type { RamBlock } from "@multifd/memory";
import { closeDescriptor, createMemfd, mapFile, readMemory, unmap } from "@multifd/native";

/** Where it may refuse, with what it throws there. */
export type Refusals = {
  readonly placeRam?: Error;
  readonly loadDeviceState?: Error;
  readonly loadDevices?: Error;
  readonly commit?: Error;
};

/** A device's state as a whole. */
export type WholeState = DeviceName & { readonly bytes: Uint8Array };

const STATE_BYTES_MAX = 2 ** 28;

export class ReceivingGuest implements DestinationGuest {
  readonly calls: ("placeRam" | "loadDevices" | "commit" | "abandon")[] = [];
  readonly states: WholeState[] = [];
  /** Loads devices' states in place of keeping them in `states`. */
  loader: DestinationGuest["loadDeviceState"] | null = null;
  readonly #refusals: Refusals;
  readonly #through: RamPlacement["through"];
  #placements: readonly RamPlacement[] = [];

  constructor(refusals: Refusals = {}, through: RamPlacement["through"] = "file") {
    this.#refusals = refusals;
    this.#through = through;
  }

  async placeRam(blocks: readonly RamBlock[]): Promise<readonly RamPlacement[]> {
    this.calls.push("placeRam");
    refuse(this.#refusals.placeRam);
    this.#placements = blocks.map((block) => {
      const descriptor = createMemfd("receiving guest", block.lengthBytes);
      return { block, descriptor, through: this.#through, startsZeroed: true };
    });
    return this.#placements;
  }

  async loadDeviceState(device: DeviceName, state: AsyncIterable<Uint8Array>): Promise<void> {
    refuse(this.#refusals.loadDeviceState);
    if (this.loader !== null) return this.loader(device, state);
    this.states.push({ ...device, bytes: await collectDeviceState(device, state, STATE_BYTES_MAX) });
  }

  async loadDevices(_devices: DevicePart): Promise<void> {
    this.calls.push("loadDevices");
    refuse(this.#refusals.loadDevices);
  }

  async commit(): Promise<void> {
    this.calls.push("commit");
    refuse(this.#refusals.commit);
  }

  async abandon(): Promise<void> {
    this.calls.push("abandon");
  }

  /** All bytes of its first RAM block. */
  contents(): Buffer {
    const { block, descriptor } = this.#placements[0]!;
    const mapping = mapFile(descriptor, { lengthBytes: block.lengthBytes, writable: false });
    const bytes = Buffer.alloc(block.lengthBytes);
    readMemory(mapping, 0, bytes);
    unmap(mapping);
    return bytes;
  }

  /** The file of its only RAM block, the caller's from here on. */
  takeDescriptor(): number {
    const [placement] = this.#placements;
    this.#placements = [];
    return placement!.descriptor;
  }

  close(): void {
    for (const { descriptor } of this.#placements) closeDescriptor(descriptor);
    this.#placements = [];
  }
}

function refuse(error: Error | undefined): void {
  if (error !== undefined) throw error;
}
