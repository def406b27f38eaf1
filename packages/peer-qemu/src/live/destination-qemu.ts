/**
 * Destination QEMU: one that waits with `-incoming defer`, as our engine's destination.
 *
 * Pages go straight into the files that it has mapped as its RAM. When all of it is there the rest
 * goes into QEMU as a migration of its own, with x-ignore-shared, while the source still
 * holds its guest; QEMU is kept from running it. Only `commit` starts the guest.
 *
 *   waiting ─ machine agreed ─▶ RAM comes ─ prepare ─▶ loaded, stopped ─ commit ─▶ running
 *
 * After a failure nothing runs here: a QEMU that has loaded anything is ended, for
 * somebody could resume it; one that has not waits on, its RAM emptied, for another attempt.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { type Address, Channel, formatAddress, MainChannel } from "@multifd/channel";
import { collectDeviceState, type DestinationGuest, type DeviceName, type RamPlacement } from "@multifd/engine";
import type { RamBlock } from "@multifd/memory";
import { hugePageBytes, punchFile, seekData } from "@multifd/native";
import { ChannelError, ConfigError, decodeReturnPath, MigrationError, ProtocolError } from "@multifd/protocol";
import { isOver } from "../drive/migration-info.js";
import { multifdSettings, type SettingsWanted } from "../drive/migration-settings.js";
import { endQemu } from "../drive/qemu-end.js";
import { type QemuFacts, queryMigration, queryRunState } from "../drive/qemu-facts.js";
import type { QmpClient } from "../qmp-client.js";
import { checkDeviceStream, DEVICE_STREAM, DEVICE_STREAM_BYTES_MAX, type StreamTerms } from "./device-stream.js";
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
  readonly onWarning: (text: string) => void;
};

/** Loading, from QEMU's first byte to its word; shorter than the source waits for ours. */
const LOAD_MS = 20_000;
const CONNECT_MS = 5000;
const LOOK_MS = 5;

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
  #stream: Uint8Array | null = null;
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
      this.#stream = await collectDeviceState(device, state, DEVICE_STREAM_BYTES_MAX);
    } else {
      throw new ProtocolError(
        "DEVICE_UNKNOWN",
        `the state of "${device.idstr}" came; a QEMU was due: migrate it with multifd qemu migrate`,
      );
    }
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
    const { qmp, facts, meeting, ram } = this.#parts;
    const stream = this.#stream;
    if (this.#came === null) throw new ProtocolError("MACHINE_RECORD", "the source has not said what machine it is");
    if (stream === null) throw new ProtocolError("DEVICE_STREAM", "the source has not sent its devices");
    const shared = new Map(ram.blocks.map(({ block }) => [block.name, block.lengthBytes]));
    this.#spent = true;
    await qmp.execute("stop"); // what QEMU takes for -S: it does not run what it has loaded
    await qmp.execute("migrate-incoming", {
      uri: formatAddress(meeting),
      ...(staysAfterFailure(facts) ? { "exit-on-error": false } : {}),
    });
    try {
      await this.#feed(stream, { machineType: facts.machineType, shared });
      await this.#loaded();
    } catch (error) {
      throw await explain(qmp, error);
    }
  }

  /**
   * Writes the stream into QEMU, checks it, and hears QEMU's word. QEMU loads while we check, for the guest stands still:
   * what is refused then has not run, and never will.
   */
  async #feed(stream: Uint8Array, terms: StreamTerms): Promise<void> {
    const main = new MainChannel(await Channel.connect(this.#parts.meeting, CONNECT_MS));
    const timer = setTimeout(() => main.destroy(), LOAD_MS);
    try {
      const written = main.write(stream).then(() => checkDeviceStream(stream, terms));
      const [taken] = await Promise.all([hearShut(main), written]);
      if (!taken) throw new ProtocolError("QEMU_MIGRATION_FAILED", "QEMU reports that it could not load its devices");
    } finally {
      clearTimeout(timer);
      main.destroy();
    }
  }

  /** QEMU says that it has the guest before it has left its state of waiting. */
  async #loaded(): Promise<void> {
    const { qmp } = this.#parts;
    const deadline = performance.now() + LOAD_MS;
    for (;;) {
      const info = await queryMigration(qmp);
      const runState = await queryRunState(qmp);
      if (info.status === "completed" && runState !== "inmigrate") return;
      if (isOver(info) && info.status !== "completed") {
        throw new ProtocolError(
          "QEMU_MIGRATION_FAILED",
          `QEMU: ${info.error ?? "it failed, and its own log says why"}`,
        );
      }
      if (performance.now() > deadline) {
        throw new ChannelError(
          "QEMU_SILENT",
          `QEMU has taken everything in, but its migration is "${info.status}" and its run state "${runState}" ${LOAD_MS} ms later; look at its monitor`,
        );
      }
      await sleep(LOOK_MS);
    }
  }

  async commit(): Promise<void> {
    const { qmp, afterwards } = this.#parts;
    if (this.#came?.running !== true || afterwards === "pause") return;
    await qmp.execute("cont");
    const runState = await queryRunState(qmp);
    if (runState === "running") return;
    throw new ProtocolError("QEMU_NOT_RUNNING", `QEMU was told to run its guest, and its run state is "${runState}"`);
  }

  async abandon(): Promise<void> {
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

/** Whether QEMU can be told not to exit on a failed incoming migration. */
function staysAfterFailure({ release }: QemuFacts): boolean {
  return release.major > 9 || (release.major === 9 && release.minor >= 1);
}

/** @returns false where QEMU says that it failed. @throws {ChannelError} where it says nothing. */
async function hearShut(main: MainChannel): Promise<boolean> {
  for await (const message of decodeReturnPath(main.source)) {
    if (message.kind === "shut") return message.status === 0;
  }
  throw new ChannelError("CHANNEL_BROKEN", "QEMU closed its incoming migration without a word");
}

/** Puts QEMU's own reason, where it still tells one, in the place of the broken link that we saw. */
async function explain(qmp: QmpClient, error: unknown): Promise<unknown> {
  if (!(error instanceof MigrationError)) return error;
  try {
    const info = await queryMigration(qmp);
    if (info.status !== "failed") return error;
    const words = info.error ?? "it could not load its devices; its own log (stderr) says why";
    return new ProtocolError("QEMU_MIGRATION_FAILED", `QEMU: ${words}`, { cause: error });
  } catch {
    return new ProtocolError(
      "QEMU_ENDED",
      `QEMU ended while it loaded the guest (${error.message}); its own log (stderr) says why`,
      { cause: error },
    );
  }
}
