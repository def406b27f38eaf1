/**
 * Configuration text: what a migration's Config and a snapshot's files have in common.
 *
 * Config is one JSON object of three members. A snapshot keeps the first of them as `config.json`;
 * the other two are in its `state.json` as well, saved by the VM itself and by the memory manager. So
 * either can be made of the other without a value being read: texts are cut out and put together.
 * Source: Cloud Hypervisor 25.0 to 53.0, vmm/src/lib.rs, VmMigrationConfig; vmm/src/vm.rs, VmSnapshot.
 */
import { ProtocolError, placeError } from "../errors.js";
import { type JsonMemberText, parseJsonMembers } from "../json-text.js";
import { decodeText, encodeText } from "../wire-text.js";
import { readSavedMemory } from "./saved-memory.js";
import type { StateNode } from "./state-tree.js";

export const CONFIG_BYTES_MAX = 64 * 2 ** 20;
const LIMITS = { charactersMax: CONFIG_BYTES_MAX, depthMax: 64, valuesMax: 4_000_000 };

/**
 * The VM's configuration out of a migration's Config, to the byte.
 *
 * @throws {ProtocolError} CONFIG_SHAPE, where there is none; JSON_SYNTAX, JSON_TOO_LARGE.
 */
export function vmConfigOf(config: Uint8Array): Uint8Array {
  const member = lastMember(decodeText(config, "Config"), "vm_config", "Config");
  if (member !== null) return encodeText(member.text);
  throw new ProtocolError("CONFIG_SHAPE", "Config has no vm_config; is it one of Cloud Hypervisor's?");
}

/**
 * The Config of a migration that restores a snapshot.
 *
 * @param vmConfig  The bytes of `config.json`; they stand in the result as they are.
 * @param state     As read from `state.json`.
 * @throws {ProtocolError} JSON_SYNTAX, JSON_TOO_LARGE, MEMORY_DATA.
 */
export function composeConfig(vmConfig: Uint8Array, state: StateNode): Uint8Array {
  const vmText = decodeText(vmConfig, "the VM's configuration");
  parsePlaced(vmText, "the VM's configuration"); // not to be found out by the destination
  const cpuid = commonCpuid(state);
  const { text } = readSavedMemory(state);
  return encodeText(
    `{"vm_config":${vmText}${cpuid === null ? "" : `,"common_cpuid":${cpuid}`},"memory_manager_data":${text}}`,
  );
}

/** Only machines with KVM on x86-64 have one. */
function commonCpuid({ data }: StateNode): string | null {
  for (const { content } of data) {
    if (typeof content !== "string") continue;
    const cpuid = lastMember(content, "common_cpuid", "the VM's own state");
    if (cpuid !== null) return cpuid.text;
  }
  return null;
}

function lastMember(text: string, name: string, place: string): JsonMemberText | null {
  return parsePlaced(text, place).findLast(({ key }) => key === name) ?? null;
}

function parsePlaced(text: string, place: string): readonly JsonMemberText[] {
  try {
    return parseJsonMembers(text, LIMITS);
  } catch (error) {
    throw placeError(error, place);
  }
}
