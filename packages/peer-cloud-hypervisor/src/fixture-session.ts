/**
 * Test fixture: random sessions of a source, well-formed or damaged, reproducible by their seed.
 *
 * A session is what a source writes on each of its channels. Of a well-formed one it
 * is known what RAM must hold in the end; a damaged one is well-formed bytes with
 * something done to them.
 */
import { type MappingFixture, makeConfig, STATE } from "./fixture.js";
import { ABANDON, COMPLETE, config, memory, request, START, state } from "./fixture-raw.js";

export const PAGE = 4096;
/** Two blocks and a hole, small enough for thousands of sessions. */
export const SESSION_RAM: readonly MappingFixture[] = [
  { gpa: 0, bytes: 16 * PAGE, slot: 0 },
  { gpa: 2 ** 32, bytes: 8 * PAGE, slot: 1 },
];

export type Session = {
  /** What the main channel says, message by message. */
  readonly main: readonly Buffer[];
  /** What an additional channel says; null for none. */
  readonly other: readonly Buffer[] | null;
  /** What RAM holds in the end, block by block; null where the session is damaged or gives up. */
  readonly ram: readonly Buffer[] | null;
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

export function makeSession(seed: number): Session {
  const dice = new Dice(seed);
  const ram = SESSION_RAM.map(({ bytes }) => Buffer.alloc(bytes));
  const memories = Array.from({ length: dice.roll(4) }, () => makeMemory(dice, ram));
  const end = dice.pick([COMPLETE, COMPLETE, COMPLETE, request(8, 0), ABANDON]);
  const main = [START, CONFIG, ...memories, state(STATE), end];
  const cutSize = dice.roll(2) === 0 ? 0 : 1 + dice.roll(5000);
  const other = dice.roll(10) === 0 ? [Buffer.from("0100", "hex")] : null;
  if (dice.roll(5) < 2) return { main, other: null, ram: end === ABANDON ? null : ram, cutSize };
  for (let count = 1 + dice.roll(3); count > 0; count--)
    damage(dice, dice.roll(5) === 0 && other !== null ? other : main);
  return { main, other, ram: null, cutSize };
}

function makeMemory(dice: Dice, ram: readonly Buffer[]): Buffer {
  const ranges = Array.from({ length: dice.roll(6) }, () => {
    const block = dice.roll(ram.length);
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

function damage(dice: Dice, messages: Buffer[]): void {
  const at = dice.roll(messages.length);
  const message = messages[at];
  if (message === undefined) {
    messages.push(randomBytes(dice, 16));
    return;
  }
  const copy = Buffer.from(message);
  switch (dice.roll(10)) {
    case 0: // some byte of the first 64, where headers and tables are
      copy[dice.roll(Math.min(64, copy.length))] = dice.roll(256);
      messages[at] = copy;
      break;
    case 1:
      copy[dice.roll(copy.length)] = dice.roll(256);
      messages[at] = copy;
      break;
    case 2:
      messages[at] = copy.subarray(0, dice.roll(copy.length));
      messages.length = at + 1;
      break;
    case 3:
      messages.splice(at, 0, copy);
      break;
    case 4:
      messages.splice(at, 1);
      break;
    case 5:
      messages.splice(dice.roll(messages.length), 0, ...messages.splice(at, 1));
      break;
    case 6:
      if (copy.length >= 16) copy.writeBigUInt64LE(randomLength(dice), 8);
      messages[at] = copy;
      break;
    case 7:
      if (copy.length >= 48) copy.writeBigUInt64LE(randomLength(dice), dice.pick([16, 24, 32, 40]));
      messages[at] = copy;
      break;
    case 8:
      messages.splice(at, 0, randomBytes(dice, dice.roll(64)));
      break;
    case 9:
      messages.splice(at, 0, request(dice.roll(12), randomLength(dice)));
      break;
  }
}
