/**
 * Waiting QEMU: one with `-incoming defer`, looked at, and with its migration settings borrowed, as a destination.
 *
 * Owns its RAM's descriptors and the loan; QEMU and its QMP socket stay the caller's.
 */
import type { Address } from "@multifd/channel";
import { MigrationError } from "@multifd/protocol";
import { MigrationSettings } from "../drive/migration-settings.js";
import { checkDestination, nameQemu } from "../drive/preflight.js";
import { qemuGone } from "../drive/qemu-end.js";
import { type QemuFacts, queryMachineTypes, queryQemu } from "../drive/qemu-facts.js";
import type { QmpClient } from "../qmp-client.js";
import { DestinationQemu, loadSettings } from "./destination-qemu.js";
import { takeMachineRecord } from "./machine-record.js";
import { findQemuPid, openSharedRam, type SharedRam } from "./shared-ram.js";

export type WaitingQemuTerms = {
  readonly qmp: QmpClient;
  /** QEMU's process; undefined asks QEMU. */
  readonly pid?: number;
  /** RAM files by block name; those not named are found. */
  readonly ramFiles: ReadonlyMap<string, string>;
  /** A private socket where QEMU takes its devices in. */
  readonly meeting: Address;
  /** `as-it-was`: the guest runs if it ran at the source. */
  readonly afterwards: "as-it-was" | "pause";
  /** Awaited when the source has let its guest go, and before it runs here. */
  readonly beforeRun?: () => Promise<void>;
  readonly onWarning: (text: string) => void;
};

export class WaitingQemu {
  readonly facts: QemuFacts;
  readonly guest: DestinationQemu;
  readonly ram: SharedRam;
  /** Resolves when QEMU has gone, or its QMP socket with it. */
  readonly gone: Promise<void>;
  readonly #settings: MigrationSettings;
  readonly #terms: WaitingQemuTerms;

  private constructor(
    terms: WaitingQemuTerms,
    facts: QemuFacts,
    guest: DestinationQemu,
    ram: SharedRam,
    settings: MigrationSettings,
  ) {
    this.#terms = terms;
    this.facts = facts;
    this.guest = guest;
    this.ram = ram;
    this.#settings = settings;
    this.gone = qemuGone(terms.qmp);
  }

  /** @throws {MigrationError} why no guest can come in; QEMU is as it was then. */
  static async open(terms: WaitingQemuTerms): Promise<WaitingQemu> {
    const { qmp, meeting, afterwards, beforeRun = async () => {}, onWarning } = terms;
    const facts = await queryQemu(qmp);
    checkDestination(facts);
    const ram = await openSharedRam(qmp, facts, terms.pid ?? (await findQemuPid(qmp)), "r+", terms.ramFiles);
    try {
      const record = await takeMachineRecord(qmp, facts, ram);
      const machineTypes = await queryMachineTypes(qmp);
      const settings = await MigrationSettings.take(qmp, nameQemu(facts));
      const parts = { qmp, facts, machineTypes, ram, record, meeting, afterwards, beforeRun, onWarning };
      const waiting = new WaitingQemu(terms, facts, new DestinationQemu(parts), ram, settings);
      try {
        await settings.set(loadSettings());
        return waiting;
      } catch (error) {
        await waiting.close();
        throw error;
      }
    } catch (error) {
      ram.close();
      throw error;
    }
  }

  /** Gives back what it has borrowed. Never rejects: a QEMU that ended has nothing to be given. */
  async close(): Promise<void> {
    try {
      await this.#settings.restore();
    } catch (error) {
      if (!(error instanceof MigrationError && error.code === "QMP_CLOSED"))
        this.#terms.onWarning(`the migration settings could not be given back: ${(error as Error).message}`);
    }
    this.ram.close();
  }
}
