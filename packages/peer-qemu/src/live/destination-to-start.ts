/**
 * Destination to start: a QEMU that is started once the source has said with what command line.
 *
 * RAM files are there first, for pages are placed before anything else is known; QEMU maps them when it starts, which
 * is before any page moves. From then on it is a destination QEMU like any other.
 *
 *   RAM blocks listed ─ files made ─▶ machine record ─ start, look, compare ─▶ as `DestinationQemu`
 *
 * Owns the RAM files and the process until `leave`; `abandon` ends the one and removes the others.
 */
import { closeSync, ftruncateSync, openSync, rmSync } from "node:fs";
import { collectDeviceState, type DestinationGuest, type DeviceName, type RamPlacement } from "@multifd/engine";
import type { RamBlock } from "@multifd/memory";
import { ConfigError, ProtocolError } from "@multifd/protocol";
import { StartedQemu, type StartTerms } from "../start/started-qemu.js";
import { placeBlock } from "./destination-qemu.js";
import { decodeMachineRecord, MACHINE_RECORD, MACHINE_RECORD_BYTES_MAX, type MachineRecord } from "./machine-record.js";
import type { SharedBlock } from "./shared-ram.js";
import { WaitingQemu, type WaitingQemuTerms } from "./waiting-qemu.js";

export type StartingParts = Omit<WaitingQemuTerms, "qmp" | "pid" | "ramFiles" | "beforeRun"> & {
  readonly ramFiles: ReadonlyMap<string, string>;
  /** How to start it, from what the source says. */
  readonly plan: (record: MachineRecord) => StartTerms;
};

export class DestinationToStart implements DestinationGuest {
  /** Resolves when the QEMU that was started has gone; never, where none was. */
  readonly gone: Promise<void>;
  readonly #parts: StartingParts;
  readonly #files: SharedBlock[] = [];
  #starting: Promise<void> = Promise.resolve();
  #started: StartedQemu | null = null;
  #waiting: WaitingQemu | null = null;
  #tellGone: (gone: Promise<void>) => void = () => {};

  constructor(parts: StartingParts) {
    this.#parts = parts;
    this.gone = new Promise((resolve) => {
      this.#tellGone = resolve;
    });
  }

  /** @throws {ConfigError} RAM_BLOCK_MISSING, RAM_FILE. */
  async placeRam(blocks: readonly RamBlock[]): Promise<readonly RamPlacement[]> {
    for (const block of blocks) this.#files.push(this.#makeFile(block));
    return this.#files.map(placeBlock);
  }

  #makeFile(block: RamBlock): SharedBlock {
    const path = this.#parts.ramFiles.get(block.name);
    if (path === undefined) {
      throw new ConfigError(
        "RAM_BLOCK_MISSING",
        `RAM block "${block.name}" (${block.lengthBytes} bytes) comes, and no file is named for it: --ram ${block.name}=PATH`,
      );
    }
    try {
      const descriptor = openSync(path, "wx+", 0o600);
      ftruncateSync(descriptor, block.lengthBytes);
      return { block, descriptor, path, offsetBytes: 0 };
    } catch (cause) {
      throw new ConfigError("RAM_FILE", `RAM block "${block.name}": ${(cause as Error).message}; name another file`, {
        cause,
      });
    }
  }

  async loadDeviceState(device: DeviceName, state: AsyncIterable<Uint8Array>): Promise<void> {
    if (device.idstr !== MACHINE_RECORD.idstr) return await this.#qemu().loadDeviceState(device, state);
    const bytes = await collectDeviceState(device, state, MACHINE_RECORD_BYTES_MAX);
    if (this.#started !== null) throw new ProtocolError("MACHINE_RECORD", "the source has told twice what it is");
    const starting = this.#start(decodeMachineRecord(bytes));
    this.#starting = starting.catch(() => {}); // told here
    await starting;
    await this.#qemu().loadDeviceState(device, once(bytes));
  }

  async #start(record: MachineRecord): Promise<void> {
    const { plan, ramFiles, ...terms } = this.#parts;
    const started = await StartedQemu.start(plan(record));
    this.#started = started;
    const waiting = await WaitingQemu.open({
      ...terms,
      qmp: started.qmp,
      ramFiles,
      beforeRun: () => started.release(),
    });
    this.#waiting = waiting;
    this.#tellGone(waiting.gone);
    await waiting.guest.placeRam(this.#files.map(({ block }) => block));
    const moved = waiting.ram.blocks.find(({ offsetBytes }) => offsetBytes !== 0);
    if (moved === undefined) return;
    throw new ConfigError(
      "RAM_FILE",
      `RAM block "${moved.block.name}" begins at offset ${moved.offsetBytes} of its file; start this QEMU by hand (--qmp)`,
    );
  }

  #qemu() {
    if (this.#waiting !== null) return this.#waiting.guest;
    throw new ProtocolError("MACHINE_RECORD", "the source has not said what machine it is");
  }

  loadDevices(): Promise<void> {
    return this.#qemu().loadDevices();
  }

  prepare(): Promise<void> {
    return this.#qemu().prepare();
  }

  commit(): Promise<void> {
    return this.#qemu().commit();
  }

  async abandon(): Promise<void> {
    await this.#starting;
    await this.#started?.end();
    await this.#waiting?.close();
    for (const { path } of this.#files) rmSync(path, { force: true });
  }

  /** The guest is in: lets its QEMU live on. @returns QEMU's process. */
  async leave(): Promise<number> {
    await this.#waiting?.close();
    await this.#started?.leave();
    return this.#started?.pid ?? 0;
  }

  /** Closes the RAM files; to be called last. */
  close(): void {
    for (const { descriptor } of this.#files.splice(0)) closeSync(descriptor);
  }
}

async function* once(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  yield bytes;
}
