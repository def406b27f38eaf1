/**
 * Test fixture: random sessions of a source, well-formed or damaged, reproducible by their seed.
 *
 * A session is what a source of some era writes on each of its channels: RAM over one or several of them, as
 * descriptors, or on demand. Of a well-formed one it is known what RAM must hold in the end; a damaged one is
 * well-formed bytes with something done to them.
 */
import type { EraName } from "@multifd/protocol";
import { type MappingFixture, makeConfig, STATE } from "./fixture.js";
import { ABANDON, COMPLETE, config, memory, request, START, state } from "./fixture-raw.js";

export const PAGE = 4096;
/** Two blocks and a hole, small enough for thousands of sessions. */
export const SESSION_RAM: readonly MappingFixture[] = [
  { gpa: 0, bytes: 16 * PAGE, slot: 0 },
  { gpa: 2 ** 32, bytes: 8 * PAGE, slot: 1 },
];

/** What a source writes at a time; a descriptor rides on what follows its header. */
export type Message = { readonly wire: Buffer; readonly descriptors: number };

export type Session = {
  readonly era: EraName;
  readonly memory: "stream" | "on-demand";
  readonly lenientDescriptors: boolean;
  /** What the main channel says, message by message. */
  readonly main: readonly Message[];
  /** What additional channels say, each once Config has been answered if the session is well-formed. */
  readonly others: readonly (readonly Message[])[];
  /** How page faults are answered: with RAM, but for the one of that number, which gets this instead. */
  readonly faults: { readonly number: number; readonly instead: Buffer } | null;
  /** Whether all of it is as it should be: the migration succeeds then, or is given up if that is how it ends. */
  readonly isWellFormed: boolean;
  readonly isGivenUp: boolean;
  /** What RAM holds in the end, block by block, where it is not handed over as descriptors. */
  readonly ram: readonly Buffer[];
  /** Whether bytes are written in pieces of any size rather than message by message. */
  readonly cutSize: number;
};

/** A generator of numbers that anybody can run again: mulberry32. */
export class Dice {
  #state: number;

  constructor(seed: number) {
    this.#state = seed >>> 0;
  }

  /** A whole number from 0 to `below` - 1. */
  roll(below: number): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(this.#state ^ (this.#state >>> 15), this.#state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return Math.floor((((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32) * below);
  }

  pick<T>(from: readonly T[]): T {
    return from[this.roll(from.length)]!;
  }
}

const CONFIG = config(makeConfig(SESSION_RAM));
const ROLE_MEMORY = Buffer.from("0100", "hex");
const ROLE_FAULT = Buffer.from("0200", "hex");
const ALL_ERAS: readonly EraName[] = ["v12", "v21", "v43", "v50", "v52", "v53", "next"];

type Draft = Pick<Session, "era" | "memory" | "lenientDescriptors" | "ram"> & {
  /** Before State. */
  readonly before: Message[];
  readonly others: Message[][];
};

export function makeSession(seed: number): Session {
  const dice = new Dice(seed);
  const draft = dice.pick([streamDraft, streamDraft, channelsDraft, descriptorsDraft, onDemandDraft])(dice);
  const last = ["v52", "v53", "next"].includes(draft.era) ? request(8, 0) : COMPLETE;
  const end = dice.pick([COMPLETE, COMPLETE, COMPLETE, last, ABANDON]);
  const main = [START, ...draft.before, state(STATE), end].map(asMessage);
  const cutSize = dice.roll(2) === 0 ? 0 : 1 + dice.roll(5000);
  const isWellFormed = dice.roll(5) < 2;
  const session = { ...draft, main, cutSize, isWellFormed, isGivenUp: end === ABANDON, faults: null };
  if (isWellFormed) return session;
  for (let count = 1 + dice.roll(3); count > 0; count--) damage(dice, dice.pick([main, main, ...draft.others]));
  const instead = dice.pick([
    Buffer.alloc(0),
    randomBytes(dice, dice.roll(64)),
    request(dice.roll(3), randomLength(dice)),
  ]);
  return { ...session, faults: dice.roll(2) === 0 ? { number: dice.roll(3), instead } : null };
}

function asMessage(from: Buffer | Message): Message {
  return "wire" in from ? from : { wire: from, descriptors: 0 };
}

function emptyRam(): Buffer[] {
  return SESSION_RAM.map(({ bytes }) => Buffer.alloc(bytes));
}

/** RAM over the main channel. */
function streamDraft(dice: Dice): Draft {
  const ram = emptyRam();
  const before = [CONFIG, ...Array.from({ length: dice.roll(4) }, () => makeMemory(dice, ram, [0, 1]))];
  const lenientDescriptors = dice.roll(8) === 0;
  return {
    era: dice.pick(ALL_ERAS),
    memory: "stream",
    lenientDescriptors,
    before: before.map(asMessage),
    others: [],
    ram,
  };
}

/** RAM over additional channels, of one block each, in the form of 52.0 or of 53.0; and over the main one. */
function channelsDraft(dice: Dice): Draft {
  const ram = emptyRam();
  const others = SESSION_RAM.slice(0, 1 + dice.roll(2)).map((_, block) => {
    const memories = Array.from({ length: 1 + dice.roll(3) }, () => makeMemory(dice, ram, [block]));
    return [...(dice.roll(2) === 0 ? [ROLE_MEMORY] : []), ...memories].map(asMessage);
  });
  return {
    era: dice.pick(["v53", "next"]),
    memory: "stream",
    lenientDescriptors: dice.roll(8) === 0,
    before: [asMessage(CONFIG)],
    others,
    ram,
  };
}

/** RAM as descriptors: before Config, or in some other order of the protocol's own text. */
function descriptorsDraft(dice: Dice): Draft {
  const lenientDescriptors = dice.roll(2) === 0;
  const width = lenientDescriptors && dice.roll(2) === 0 ? 2 : 4;
  const slots = SESSION_RAM.map(({ slot }): Message => {
    const payload = Buffer.alloc(width);
    payload.writeUInt16LE(slot);
    return { wire: Buffer.concat([request(7, width), payload]), descriptors: 1 };
  });
  if (dice.roll(2) === 0) slots.reverse();
  const before = [asMessage(CONFIG)];
  before.splice(lenientDescriptors ? dice.roll(2) : 0, 0, ...slots);
  return { era: dice.pick(ALL_ERAS.slice(1)), memory: "stream", lenientDescriptors, before, others: [], ram: [] };
}

/** RAM on demand: the one additional channel answers page faults. */
function onDemandDraft(dice: Dice): Draft {
  const ram = SESSION_RAM.map(({ bytes }) => Buffer.alloc(bytes, 1 + dice.roll(255)));
  return {
    era: dice.pick(["v53", "next"]),
    memory: "on-demand",
    lenientDescriptors: false,
    before: [asMessage(CONFIG)],
    others: [[asMessage(ROLE_FAULT)]],
    ram,
  };
}

function makeMemory(dice: Dice, ram: readonly Buffer[], blocks: readonly number[]): Buffer {
  const ranges = Array.from({ length: dice.roll(6) }, () => {
    const block = dice.pick(blocks);
    const bytes = ram[block]!;
    const offset = dice.roll(bytes.length);
    const length = dice.roll(Math.min(3 * PAGE, bytes.length - offset) + 1);
    const fill = 1 + dice.roll(255);
    bytes.fill(fill, offset, offset + length);
    return [SESSION_RAM[block]!.gpa + offset, length, fill] as const;
  });
  return memory(...ranges);
}

function randomBytes(dice: Dice, length: number): Buffer {
  return Buffer.from(Array.from({ length }, () => dice.roll(256)));
}

/** Any 64-bit length, small and large ones alike. */
function randomLength(dice: Dice): bigint {
  const bits = BigInt(dice.roll(65));
  const any = randomBytes(dice, 8).readBigUInt64LE();
  return any & ((1n << bits) - 1n);
}

function damage(dice: Dice, messages: Message[]): void {
  const at = dice.roll(messages.length);
  const message = messages[at];
  if (message === undefined) {
    messages.push(asMessage(randomBytes(dice, 16)));
    return;
  }
  const copy = Buffer.from(message.wire);
  const put = (wire: Buffer) => {
    messages[at] = { ...message, wire };
  };
  switch (dice.roll(11)) {
    case 0: // some byte of the first 64, where headers and tables are
      copy[dice.roll(Math.min(64, copy.length))] = dice.roll(256);
      put(copy);
      break;
    case 1:
      copy[dice.roll(copy.length)] = dice.roll(256);
      put(copy);
      break;
    case 2:
      put(copy.subarray(0, dice.roll(copy.length)));
      messages.length = at + 1;
      break;
    case 3:
      messages.splice(at, 0, message);
      break;
    case 4:
      messages.splice(at, 1);
      break;
    case 5:
      messages.splice(dice.roll(messages.length), 0, ...messages.splice(at, 1));
      break;
    case 6:
      if (copy.length >= 16) copy.writeBigUInt64LE(randomLength(dice), 8);
      put(copy);
      break;
    case 7:
      if (copy.length >= 48) copy.writeBigUInt64LE(randomLength(dice), dice.pick([16, 24, 32, 40]));
      put(copy);
      break;
    case 8:
      messages.splice(at, 0, asMessage(randomBytes(dice, dice.roll(64))));
      break;
    case 9:
      messages.splice(at, 0, asMessage(request(dice.roll(12), randomLength(dice))));
      break;
    case 10: // too many descriptors, or none
      if (message.descriptors > 0) messages[at] = { ...message, descriptors: dice.roll(4) };
      break;
  }
}
