/**
 * Source QEMU: the running guest of an unmodified QEMU, as our engine's source.
 *
 * RAM is read from the file that QEMU shares it in, writes are seen by a tracker from outside, and what else there is
 * comes out of QEMU's own migration when it stops (device-capture.ts). QEMU is not told of the
 * migration before that: whatever fails until then, the guest never notices.
 */
import type { DeviceStateProvider, RamSource, SourceGuest } from "@multifd/engine";
import type { DirtyTracker } from "@multifd/memory";
import type { DeviceCapture } from "./device-capture.js";
import { DEVICE_STREAM } from "./device-stream.js";
import { encodeMachineRecord, type MachineRecord } from "./machine-record.js";
import type { SharedRam } from "./shared-ram.js";

export class SourceQemu implements SourceGuest {
  readonly ram: readonly RamSource[];
  readonly tracker: DirtyTracker;
  readonly introduction: readonly DeviceStateProvider[];
  readonly devices: readonly DeviceStateProvider[];
  readonly #capture: DeviceCapture;

  constructor(ram: SharedRam, tracker: DirtyTracker, record: MachineRecord, capture: DeviceCapture) {
    this.ram = ram.blocks.map(({ block, descriptor, offsetBytes }) => ({ block, descriptor, offsetBytes }));
    this.tracker = tracker;
    this.introduction = [encodeMachineRecord(record)];
    this.#capture = capture;
    // Requests that a device had under way when the guest stopped are finished before QEMU saves, and write RAM.
    this.devices = [{ ...DEVICE_STREAM, savesIntoRam: true, save: () => takeStream(capture) }];
  }

  pause(): Promise<void> {
    return this.#capture.stop();
  }

  resume(): Promise<void> {
    return this.#capture.resume();
  }

  handOver(): void {
    this.#capture.release();
  }
}

async function* takeStream(capture: DeviceCapture): AsyncGenerator<Uint8Array> {
  yield await capture.stream();
}
