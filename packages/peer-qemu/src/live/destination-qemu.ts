/**
 * Destination QEMU: one that waits with `-incoming defer`, as our engine's destination.
 *
 * Pages go straight into the files that it has mapped as its RAM. The rest goes into QEMU as a
 * migration of its own, with x-ignore-shared (device-feed.ts): what the source has of it before it stops its
 * guest comes beside the last rounds. QEMU is kept from running what it has loaded. Only `commit` starts the guest.
 *
 *   waiting ─ machine agreed ─▶ RAM comes ─▶ RAM and devices come ─ prepare ─▶ loaded, stopped ─ commit ─▶ running
 *
 * After a failure nothing runs here: a QEMU that has loaded anything is ended, for
 * somebody could resume it; one that has not waits on, its RAM emptied, for another attempt.
 */
import type { Address } from "@multifd/channel";
import { collectDeviceState, type DestinationGuest, type DeviceName, type RamPlacement } from "@multifd/engine";
import type { RamBlock } from "@multifd/memory";
import { hugePageBytes, punchFile, seekData } from "@multifd/native";
import { ConfigError, ProtocolError } from "@multifd/protocol";
import { multifdSettings, type SettingsWanted } from "../drive/migration-settings.js";
import { endQemu } from "../drive/qemu-end.js";
import { type QemuFacts, queryRunState } from "../drive/qemu-facts.js";
import type { QmpClient } from "../qmp-client.js";
import { DeviceFeed } from "./device-feed.js";
import { DEVICE_STREAM } from "./device-stream.js";
import {
  compareRecords,
  decodeMachineRecord,
  MACHINE_RECORD,
  MACHINE_RECORD_BYTES_MAX,
  type MachineRecord,
} from "./machine-record.js";
import type { SharedBlock, SharedRam } from "./shared-ram.js";

export type DestinationQemuParts = {
  readonly qmp: QmpClient;
  readonly facts: QemuFacts;
  readonly machineTypes: readonly string[];
  readonly ram: SharedRam;
  readonly record: MachineRecord;
  /** Where QEMU is told to listen, and we connect. */
  readonly meeting: Address;
  /** `as-it-was`: the guest runs if it ran at the source. */
  readonly afterwards: "as-it-was" | "pause";
  /** Awaited when the source has let its guest go, and before it runs here. */
  readonly beforeRun: () => Promise<void>;
  readonly onWarning: (text: string) => void;
};

/** One connection, shared RAM left out, and drives untouched until the guest runs: the source still has them. */
export function loadSettings(): SettingsWanted {
  const { capabilities } = multifdSettings({ channels: 1, compression: "none", level: 0 }, 0);
  return {
    capabilities: { ...capabilities, multifd: false, "x-ignore-shared": true, "late-block-activate": true },
    parameters: {},
  };
}

export class DestinationQemu implements DestinationGuest {
  readonly #parts: DestinationQemuParts;
  #feed: DeviceFeed | null = null;
  #came: MachineRecord | null = null;
  /** From here on QEMU is spent: it has taken a stream in, or begun to. */
  #spent = false;

  constructor(parts: DestinationQemuParts) {
    this.#parts = parts;
  }

  /** @throws {ConfigError} RAM_BLOCK_MISSING, RAM_SIZE_MISMATCH. */
  async placeRam(blocks: readonly RamBlock[]): Promise<readonly RamPlacement[]> {
    return blocks.map((block) => {
      const own = this.#parts.ram.blocks.find((other) => other.block.name === block.name);
      if (own === undefined) {
        const known = this.#parts.ram.blocks.map((other) => `"${other.block.name}"`).join(", ");
        throw new ConfigError(
          "RAM_BLOCK_MISSING",
          `this QEMU shares no RAM block "${block.name}", it shares ${known}; give its memory backend the same id`,
        );
      }
      if (own.block.lengthBytes === block.lengthBytes) return placeBlock(own);
      throw new ConfigError(
        "RAM_SIZE_MISMATCH",
        `RAM block "${block.name}" has ${block.lengthBytes} bytes at the source and ${own.block.lengthBytes} in this QEMU; start it with the same memory size`,
      );
    });
  }

  async loadDeviceState(device: DeviceName, state: AsyncIterable<Uint8Array>): Promise<void> {
    if (device.idstr === MACHINE_RECORD.idstr) {
      this.#agree(await collectDeviceState(device, state, MACHINE_RECORD_BYTES_MAX));
    } else if (device.idstr === DEVICE_STREAM.idstr) {
      await this.#load(state);
    } else {
      throw new ProtocolError(
        "DEVICE_UNKNOWN",
        `the state of "${device.idstr}" came; a QEMU was due: migrate it with multifd qemu migrate`,
      );
    }
  }

  async #load(state: AsyncIterable<Uint8Array>): Promise<void> {
    const { qmp, facts, meeting, ram } = this.#parts;
    if (this.#came === null) throw new ProtocolError("MACHINE_RECORD", "the source has not said what machine it is");
    const shared = new Map(ram.blocks.map(({ block }) => [block.name, block.lengthBytes]));
    this.#spent = true;
    this.#feed = await DeviceFeed.open(qmp, facts, meeting, { machineType: facts.machineType, shared });
    await this.#feed.take(state);
  }

  #agree(bytes: Uint8Array): void {
    const { record, facts, machineTypes, ram, onWarning } = this.#parts;
    const came = decodeMachineRecord(bytes);
    for (const text of compareRecords(came, record, facts, machineTypes)) onWarning(text);
    const idle = ram.blocks.find(({ block }) => !came.shared.includes(block.name));
    if (idle !== undefined) {
      throw new ConfigError(
        "RAM_BLOCK_SHARED",
        `RAM block "${idle.block.name}" is shared here and not at the source, whose QEMU would not leave it out`,
      );
    }
    this.#came = came;
  }

  /** The main channel ends without devices: they came down the channels. */
  async loadDevices(): Promise<void> {}

  /** @throws {ProtocolError} QEMU_MIGRATION_FAILED, with QEMU's reason; {ChannelError} QEMU_SILENT, QMP_CLOSED. */
  async prepare(): Promise<void> {
    if (this.#came === null) throw new ProtocolError("MACHINE_RECORD", "the source has not said what machine it is");
    if (this.#feed === null) throw new ProtocolError("DEVICE_STREAM", "the source has not sent its devices");
    await this.#feed.loaded();
  }

  async commit(): Promise<void> {
    const { qmp, afterwards, beforeRun } = this.#parts;
    await beforeRun();
    if (this.#came?.running !== true || afterwards === "pause") return;
    const [, runState] = await Promise.all([qmp.execute("cont"), queryRunState(qmp)]);
    if (runState === "running") return;
    throw new ProtocolError("QEMU_NOT_RUNNING", `QEMU was told to run its guest, and its run state is "${runState}"`);
  }

  async abandon(): Promise<void> {
    this.#feed?.close();
    if (this.#spent) return await endQemu(this.#parts.qmp, this.#parts.ram.pid);
    if (this.#came === null) return; // no page has come
    for (const { descriptor, offsetBytes, block } of this.#parts.ram.blocks) {
      try {
        punchFile(descriptor, offsetBytes, block.lengthBytes);
      } catch (error) {
        this.#parts.onWarning(
          `RAM block "${block.name}" could not be emptied (${(error as Error).message}); start this QEMU anew`,
        );
      }
    }
  }
}

/** Where the pages of a shared block go. */
export function placeBlock({ block, descriptor, offsetBytes }: SharedBlock): RamPlacement {
  const huge = hugePageBytes(descriptor) !== 0;
  // A file on hugetlbfs cannot be asked for holes: it counts as written.
  const next = huge ? offsetBytes : seekData(descriptor, offsetBytes);
  const startsZeroed = next === null || next >= offsetBytes + block.lengthBytes;
  return { block, descriptor, through: huge ? "mapping" : "file", startsZeroed, fileOffsetBytes: offsetBytes };
}
