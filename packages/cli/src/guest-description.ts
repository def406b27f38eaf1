/**
 * Guest description: what `describe` tells of a guest process.
 *
 * Another process says this, so every field is checked before it sizes or
 * addresses anything: harvesting walks the addresses of that process, and the
 * RAM blocks become the stream's.
 */
import { describeRamBlock, type RamBlock } from "@multifd/memory";
import { ProtocolError } from "@multifd/protocol";
import { isWhole } from "./answer-values.js";
import { type GuestDevice, type MemoryRun, parseDevices, parseMemory } from "./vhost-user/guest-devices.js";

/** What an answer may have in it; nothing of it is believed yet. Source: native/guest/control.c. */
export type GuestAnswer = {
  readonly ok?: unknown;
  readonly error?: unknown;
  readonly pid?: unknown;
  readonly blocks?: unknown;
  readonly memory?: unknown;
  readonly devices?: unknown;
  readonly tracking?: unknown;
  readonly trackingError?: unknown;
  readonly bytes?: unknown;
  readonly downtimeNs?: unknown;
  readonly pages?: unknown;
  readonly stale?: unknown;
  readonly corrupt?: unknown;
  readonly firstBadPage?: unknown;
  readonly pagesWritten?: unknown;
  readonly running?: unknown;
};

export type GuestBlock = {
  readonly block: RamBlock;
  /** Where the guest's process has it mapped. */
  readonly address: number;
};

export type GuestDescription = {
  readonly pid: number;
  readonly blocks: readonly GuestBlock[];
  /** Where they lie in guest-physical memory; a guest without vhost-user devices need not say. */
  readonly memory: readonly MemoryRun[];
  readonly devices: readonly GuestDevice[];
  /** Whether the guest's process has registered its RAM for write tracking. */
  readonly tracking: boolean;
  /** Why not. */
  readonly trackingError: string;
};

const BLOCKS_MAX = 64;
/** User addresses end here on every 64-bit Linux with four levels of page tables. */
const ADDRESS_MAX = 2 ** 47;

/** @throws {ProtocolError} GUEST_ANSWER, naming the field. */
export function parseDescription(answer: GuestAnswer, place: string): GuestDescription {
  const wrong = (what: string) => new ProtocolError("GUEST_ANSWER", `${place}: its description has ${what}`);
  const pid = answer.pid;
  if (!isWhole(pid, 1, 2 ** 22)) throw wrong("no process id");
  const blocks = answer.blocks;
  if (!Array.isArray(blocks) || blocks.length < 1 || blocks.length > BLOCKS_MAX) {
    throw wrong(`no list of 1 to ${BLOCKS_MAX} RAM blocks`);
  }
  const parsed = blocks.map((entry: unknown, index) => {
    const block = parseBlock(entry);
    if (!block) throw wrong(`a RAM block ${index} that makes no sense: ${JSON.stringify(entry)}`);
    return block;
  });
  const ram = parsed.map(({ block }) => block);
  if (new Set(ram.map(({ name }) => name)).size !== ram.length) throw wrong("two RAM blocks of one name");
  const trackingError = answer.trackingError;
  return {
    pid,
    blocks: parsed,
    memory: parseMemory(answer.memory ?? [], ram, wrong),
    devices: parseDevices(answer.devices ?? [], parsed.length, wrong),
    tracking: answer.tracking === true,
    trackingError: typeof trackingError === "string" ? trackingError : "it gives no reason",
  };
}

function parseBlock(entry: unknown): GuestBlock | null {
  if (typeof entry !== "object" || entry === null) return null;
  const { name, bytes, address, pageBytes } = entry as Record<string, unknown>;
  if (typeof name !== "string" || name === "" || Buffer.byteLength(name) > 255) return null;
  if (!isWhole(pageBytes, 512, 65536) || (pageBytes & (pageBytes - 1)) !== 0) return null;
  if (!isWhole(bytes, pageBytes, ADDRESS_MAX) || !isWhole(address, pageBytes, ADDRESS_MAX - bytes)) return null;
  if (address % pageBytes !== 0) return null;
  const block = describeRamBlock(name, bytes, pageBytes);
  return block && { block, address };
}
