/**
 * Migration settings: QEMU's capabilities and parameters, borrowed for one migration.
 *
 * What is changed is remembered as it was found and given back, whatever became
 * of the migration. Capabilities go in one command, for QEMU judges the set as a
 * whole. An older QEMU does not know every name: to switch off what it does not
 * know is done already, to switch that on is refused by name.
 *
 * Source: QEMU 11.1, migration/options.c, migrate_caps_check(), migrate_params_check().
 */
import { ConfigError, MigrationError } from "@multifd/protocol";
import type { QmpClient } from "../qmp-client.js";
import { toList, toObject, toText } from "./qmp-answer.js";

export type SettingsWanted = {
  readonly capabilities: Readonly<Record<string, boolean>>;
  /** Undefined leaves a parameter as it is. */
  readonly parameters: Readonly<Record<string, string | number | boolean | undefined>>;
};

/** Capabilities that change the wire or hold the migration up, and so go off while we are at one end. */
const DISTURBING = [
  "background-snapshot",
  "block",
  "compress",
  "mapped-ram",
  "pause-before-switchover",
  "postcopy-preempt",
  "postcopy-ram",
  "release-ram",
  "rdma-pin-all",
  "switchover-ack",
  "x-colo",
  "x-ignore-shared",
  "xbzrle",
  "zero-copy-send",
];
/** Likewise parameters, with the value that switches each off. */
const NEUTRAL: Readonly<Record<string, string | boolean>> = { "tls-creds": "", mode: "normal", "direct-io": false };
/** QEMU takes 0 for "no limit" since 8.1 only; 1 TiB a second is below every version's upper bound. */
export const BANDWIDTH_UNLIMITED = 2 ** 40;

/** What both ends of a migration over multifd channels between us and a QEMU need. `bytesPerSecond` 0: no limit. */
export function multifdSettings(
  terms: { readonly channels: number; readonly compression: string; readonly level: number },
  bytesPerSecond: number,
): SettingsWanted {
  const off = Object.fromEntries(DISTURBING.map((name) => [name, false]));
  const { channels, compression, level } = terms;
  return {
    capabilities: { ...off, events: true, "return-path": true, multifd: true },
    parameters: {
      "multifd-channels": channels,
      "multifd-compression": compression,
      ...(compression === "none" ? {} : { [`multifd-${compression}-level`]: level }),
      "max-bandwidth": bytesPerSecond === 0 ? BANDWIDTH_UNLIMITED : bytesPerSecond,
    },
  };
}

export class MigrationSettings {
  readonly #qmp: QmpClient;
  readonly #name: string;
  readonly #capabilities: ReadonlyMap<string, boolean>;
  readonly #parameters: ReadonlyMap<string, unknown>;
  readonly #changedCapabilities = new Set<string>();
  readonly #changedParameters = new Set<string>();

  private constructor(
    qmp: QmpClient,
    name: string,
    capabilities: ReadonlyMap<string, boolean>,
    parameters: ReadonlyMap<string, unknown>,
  ) {
    this.#qmp = qmp;
    this.#name = name;
    this.#capabilities = capabilities;
    this.#parameters = parameters;
  }

  /** Notes what there is. @param name  QEMU's, for messages: `QEMU 7.2.22`. */
  static async take(qmp: QmpClient, name: string): Promise<MigrationSettings> {
    const capabilities = toList(await qmp.execute("query-migrate-capabilities"), "query-migrate-capabilities");
    const parameters = toObject(await qmp.execute("query-migrate-parameters"), "query-migrate-parameters");
    return new MigrationSettings(
      qmp,
      name,
      new Map(capabilities.map(({ capability, state }) => [toText(capability, "capability"), state === true])),
      new Map(Object.entries(parameters)),
    );
  }

  /**
   * Sets what differs from what was found, and switches off what would disturb.
   *
   * @throws {ConfigError} CAPABILITY_UNSUPPORTED, PARAMETER_UNSUPPORTED, SETTINGS_REFUSED with QEMU's words. What was
   *   changed before that is given back by `restore`, as ever.
   */
  async set(wanted: SettingsWanted): Promise<void> {
    const capabilities = Object.entries(wanted.capabilities).filter(([name, state]) => this.#differs(name, state));
    const parameters = Object.entries({ ...this.#neutral(), ...wanted.parameters }).filter(
      ([name, value]) => value !== undefined && this.#known(name) !== value,
    );
    for (const [name] of capabilities) this.#changedCapabilities.add(name);
    await this.#setCapabilities(capabilities);
    for (const [name, value] of parameters) {
      this.#changedParameters.add(name);
      await this.#refusable(`${name} = ${value}`, "migrate-set-parameters", { [name]: value });
    }
  }

  /** Changes one parameter while a migration runs. */
  async setParameter(name: string, value: number): Promise<void> {
    this.#changedParameters.add(name);
    await this.#qmp.execute("migrate-set-parameters", { [name]: value });
  }

  /** Gives everything back as it was found. @throws {MigrationError} what QEMU says against it. */
  async restore(): Promise<void> {
    try {
      const found = [...this.#changedParameters].map((name) => [name, this.#parameters.get(name)]);
      this.#changedParameters.clear();
      if (found.length > 0) await this.#qmp.execute("migrate-set-parameters", Object.fromEntries(found));
    } finally {
      const found = [...this.#changedCapabilities].map((name) => [name, this.#capabilities.get(name)] as const);
      this.#changedCapabilities.clear();
      await this.#setCapabilities(found);
    }
  }

  #differs(name: string, state: boolean): boolean {
    const found = this.#capabilities.get(name);
    if (found !== undefined || !state) return found !== undefined && found !== state;
    throw new ConfigError(
      "CAPABILITY_UNSUPPORTED",
      `${this.#name} does not know the migration capability "${name}"; use QEMU 4.0 or newer`,
    );
  }

  #neutral(): Record<string, string | boolean> {
    return Object.fromEntries(Object.entries(NEUTRAL).filter(([name]) => this.#parameters.has(name)));
  }

  #known(name: string): unknown {
    if (this.#parameters.has(name)) return this.#parameters.get(name);
    throw new ConfigError(
      "PARAMETER_UNSUPPORTED",
      `${this.#name} does not know the migration parameter "${name}"; use QEMU 5.1 or newer, or go without it`,
    );
  }

  async #setCapabilities(states: readonly (readonly [string, boolean | undefined])[]): Promise<void> {
    if (states.length === 0) return;
    const capabilities = states.map(([capability, state]) => ({ capability, state }));
    const what = states.map(([name, state]) => `${name} ${state ? "on" : "off"}`).join(", ");
    await this.#refusable(what, "migrate-set-capabilities", { capabilities });
  }

  async #refusable(what: string, command: string, args: Readonly<Record<string, unknown>>): Promise<void> {
    try {
      await this.#qmp.execute(command, args);
    } catch (cause) {
      if (!(cause instanceof MigrationError) || cause.code !== "QMP_COMMAND_FAILED") throw cause;
      throw new ConfigError("SETTINGS_REFUSED", `${this.#name} does not take ${what}: ${cause.message}`, { cause });
    }
  }
}
