/**
 * Preflight: what would go wrong between two sides, told before RAM moves.
 *
 * QEMU answers many of these mistakes with silence, a freeze or an error that names
 * neither side. Here each is one sentence that names what the two sides have and what
 * to change. Nothing at all is changed by looking.
 */
import { ConfigError } from "@multifd/protocol";
import { isUnderWay } from "./migration-info.js";
import type { QemuFacts, QemuRamBlock } from "./qemu-facts.js";

/** What a guest was, as its stream or snapshot tells. */
export type SavedMachine = {
  readonly machineType: string;
  readonly blocks: readonly { readonly name: string; readonly lengthBytes: number }[];
};

export function nameQemu({ version, target }: QemuFacts): string {
  return `QEMU ${version} (${target})`;
}

/**
 * Checks that a QEMU's guest can leave it.
 *
 * @throws {ConfigError} MIGRATION_UNDER_WAY, MIGRATION_BLOCKED with QEMU's reasons, RUN_STATE.
 */
export function checkSource(facts: QemuFacts): void {
  const { migration, runState } = facts;
  if (isUnderWay(migration)) {
    throw new ConfigError(
      "MIGRATION_UNDER_WAY",
      `this VM is being migrated already (status "${migration.status}"); wait for that, or cancel it with migrate_cancel`,
    );
  }
  if (migration.blockedReasons.length > 0) {
    throw new ConfigError("MIGRATION_BLOCKED", `QEMU cannot migrate this VM: ${migration.blockedReasons.join("; ")}`);
  }
  if (runState === "inmigrate") {
    throw new ConfigError("RUN_STATE", "this QEMU waits for a guest to come in (-incoming); there is none to save yet");
  }
  if (runState === "postmigrate") {
    throw new ConfigError(
      "RUN_STATE",
      "this VM has been migrated or saved already and stands since (postmigrate); `cont` makes it run here again, if it runs nowhere else",
    );
  }
}

/**
 * Checks that a QEMU waits for a guest whose channels we may still set.
 *
 * @throws {ConfigError} RUN_STATE, ALREADY_LISTENING.
 */
export function checkDestination(facts: QemuFacts): void {
  const { runState, migration } = facts;
  if (runState !== "inmigrate") {
    throw new ConfigError(
      "RUN_STATE",
      `this QEMU has a guest of its own (${runState}); a guest is restored into one started with -incoming defer`,
    );
  }
  if (migration.listening || isUnderWay(migration)) {
    throw new ConfigError(
      "ALREADY_LISTENING",
      "this QEMU listens for a migration already, so its channels and compression can no longer be set; start it with -incoming defer",
    );
  }
  if (migration.status !== "none") {
    throw new ConfigError(
      "ALREADY_USED",
      `this QEMU has taken a migration in before, which ended as "${migration.status}"; start it anew with -incoming defer`,
    );
  }
}

/**
 * Compares a guest with the QEMU that it is to go into.
 *
 * @param machineTypes  All that this QEMU has.
 * @returns What does not hinder and yet looks wrong: RAM blocks that the guest has not.
 * @throws {ConfigError} MACHINE_TYPE_MISMATCH, RAM_BLOCK_MISSING, RAM_SIZE_MISMATCH; the message names every mismatch.
 */
export function compareMachines(
  saved: SavedMachine,
  facts: QemuFacts,
  machineTypes: readonly string[],
): readonly string[] {
  const own = new Map(facts.ramBlocks.map((block) => [block.name, block]));
  const mismatches = [
    ...compareMachineTypes(saved.machineType, facts, machineTypes),
    ...saved.blocks.flatMap(({ name, lengthBytes }) => compareBlock(name, lengthBytes, own, saved)),
  ];
  const first = mismatches[0];
  if (first) throw new ConfigError(first.code, mismatches.map(({ message }) => message).join("; "));
  const known = new Set(saved.blocks.map(({ name }) => name));
  return facts.ramBlocks
    .filter(({ name }) => !known.has(name))
    .map(({ name }) => `this QEMU has a RAM block "${name}" that the guest has not; is a device too many here?`);
}

type Mismatch = { readonly code: string; readonly message: string };

function compareMachineTypes(came: string, facts: QemuFacts, machineTypes: readonly string[]): readonly Mismatch[] {
  if (came === facts.machineType) return [];
  const remedy = machineTypes.includes(came)
    ? `start it with -machine ${came}`
    : `${nameQemu(facts)} has no such machine: it is too old or too new for it, or built for another architecture`;
  const message = `the guest is a "${came}", this QEMU a "${facts.machineType}"; ${remedy}`;
  return [{ code: "MACHINE_TYPE_MISMATCH", message }];
}

function compareBlock(
  name: string,
  lengthBytes: number,
  own: ReadonlyMap<string, QemuRamBlock>,
  saved: SavedMachine,
): readonly Mismatch[] {
  const block = own.get(name);
  if (block === undefined) return [{ code: "RAM_BLOCK_MISSING", message: missingBlock(name, lengthBytes, own, saved) }];
  if (lengthBytes === block.usedBytes || (canGrow(block) && lengthBytes <= block.maxBytes)) return [];
  const message = `RAM block "${name}" has ${lengthBytes} bytes in the guest and ${block.usedBytes} in this QEMU; start it with the same memory sizes (-m and memory backends) and firmware`;
  return [{ code: "RAM_SIZE_MISMATCH", message }];
}

/** ACPI tables and the like, whose length the firmware's needs decide. Source: QEMU 11.1, hw/core/loader.c. */
function canGrow({ name, usedBytes, maxBytes }: QemuRamBlock): boolean {
  return usedBytes < maxBytes || name.startsWith("/rom@");
}

function missingBlock(
  name: string,
  lengthBytes: number,
  own: ReadonlyMap<string, QemuRamBlock>,
  saved: SavedMachine,
): string {
  const saves = new Set(saved.blocks.map((block) => block.name));
  const twin = [...own.values()].find((block) => block.usedBytes === lengthBytes && !saves.has(block.name));
  const remedy = twin
    ? `its "${twin.name}" is as long: name the memory backend or device as the guest's was`
    : "start it with the same memory backends and devices";
  return `this QEMU has no RAM block "${name}" (${lengthBytes} bytes in the guest); ${remedy}`;
}
