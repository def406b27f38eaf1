/**
 * Option values of `multifd vhost-user`: guest addresses, memory files, rings.
 *
 * Numbers are decimal, or hexadecimal behind 0x, as addresses are read off elsewhere.
 */
import { InvalidArgumentError } from "commander";
import type { MemoryFile, PlacedRing } from "./dirty-view.js";

const NUMBER = /^(?:0x[0-9a-f]{1,13}|\d{1,15})$/i;

function number(text: string | undefined): number | null {
  return text !== undefined && NUMBER.test(text) ? Number(text) : null;
}

/** Collects `ADDRESS=PATH`, any number of them. */
export function memoryFile(text: string, previous: readonly MemoryFile[] = []): readonly MemoryFile[] {
  const at = text.indexOf("=");
  const guestAddress = number(text.slice(0, Math.max(at, 0)));
  if (guestAddress === null || at === text.length - 1)
    throw new InvalidArgumentError("Write ADDRESS=PATH, such as 0x100000000=/dev/shm/high.ram.");
  return [...previous, { guestAddress, path: text.slice(at + 1) }];
}

/** Collects `INDEX=SIZE,DESCRIPTORS,AVAILABLE,USED[,BASE]`, each ring once. */
export function placedRing(text: string, previous: readonly PlacedRing[] = []): readonly PlacedRing[] {
  const [name, list = ""] = text.split("=", 2);
  const index = number(name);
  const values = list.split(",").map(number);
  const [size, descriptors, available, used, base = 0] = values;
  if (index === null || values.includes(null) || values.length < 4 || values.length > 5) {
    throw new InvalidArgumentError(
      "Write INDEX=SIZE,DESCRIPTORS,AVAILABLE,USED[,BASE], such as 0=256,0x1000,0x2000,0x3000.",
    );
  }
  if (previous.some((ring) => ring.index === index)) throw new InvalidArgumentError(`Ring ${index} is named twice.`);
  return [
    ...previous,
    { index, size: size!, descriptors: descriptors!, available: available!, used: used!, base: base! },
  ];
}

/** A feature set as one number. */
export function features(text: string): bigint {
  if (/^0x[0-9a-f]{1,16}$/i.test(text)) return BigInt(text);
  throw new InvalidArgumentError("Write the feature bits as one hexadecimal number, such as 0x100000000.");
}
