/**
 * Option values: text from the command line into what the engine takes.
 *
 * Every parser either returns a value in range or throws commander's
 * InvalidArgumentError, whose text follows "argument 'x' is invalid."; so a bad
 * value is one clear line and exit code 2, before anything has started.
 */
import { type Address, parseAddress } from "@multifd/channel";
import { type Compression, MigrationError, parseUuid, type QemuCompression } from "@multifd/protocol";
import { InvalidArgumentError } from "commander";
import { parseBytes } from "./quantities.js";

/** Parses a whole decimal number between two bounds, both included. */
export function wholeNumber(min: number, max: number): (text: string) => number {
  return (text) => {
    const value = /^\d{1,15}$/.test(text) ? Number(text) : Number.NaN;
    if (value >= min && value <= max) return value;
    throw new InvalidArgumentError(`Write a whole number from ${min} to ${max}.`);
  };
}

/** Milliseconds; 0 means off where the option says so. */
export const milliseconds = wholeNumber(0, 2 ** 31 - 1);

/** Up to what Linux gives. Source: proc(5), pid_max. */
export const processId = wholeNumber(1, 2 ** 22);

/** Bytes with an optional suffix, at least `min`. */
export function byteSize(min: number, max: number): (text: string) => number {
  return (text) => {
    const bytes = parseBytes(text);
    if (bytes !== null && bytes >= min && bytes <= max) return bytes;
    throw new InvalidArgumentError(`Write bytes from ${min} to ${max}, such as 512M or 1.5G (powers of 1024).`);
  };
}

export function address(text: string): Address {
  return rephrase(() => parseAddress(text));
}

/** A guest's control socket: a unix socket, for its RAM travels as descriptors. */
export function guestAddress(text: string): Address {
  const parsed = address(text);
  if (parsed.kind === "unix") return parsed;
  throw new InvalidArgumentError("A guest hands over its RAM through a unix socket: write unix:PATH.");
}

/** 16 bytes, as both ends of a migration must have them. */
export function uuid(text: string): Uint8Array {
  return rephrase(() => parseUuid(text));
}

export function compression(text: string): Compression {
  if (text === "lz4" || text === "auto" || isQemus(text)) return text;
  throw new InvalidArgumentError("Known are none, zlib, zstd, lz4 and auto.");
}

/** Where the other end is a QEMU whatever happens. */
export function qemuCompression(text: string): QemuCompression {
  if (isQemus(text)) return text;
  if (text === "lz4" || text === "auto")
    throw new InvalidArgumentError("QEMU knows none, zlib and zstd; lz4 and auto are for two multifd.");
  throw new InvalidArgumentError("Known are none, zlib and zstd.");
}

function isQemus(text: string): text is QemuCompression {
  return text === "none" || text === "zlib" || text === "zstd";
}

/** Collects `BLOCK=PATH`, any number of them, each block once. */
export function ramFile(text: string, previous: ReadonlyMap<string, string> | undefined): ReadonlyMap<string, string> {
  const at = text.indexOf("=");
  if (at < 1 || at === text.length - 1)
    throw new InvalidArgumentError("Write BLOCK=PATH, such as pc.ram=/dev/shm/ram.");
  const block = text.slice(0, at);
  if (previous?.has(block)) throw new InvalidArgumentError(`RAM block "${block}" is named twice.`);
  return new Map([...(previous ?? []), [block, text.slice(at + 1)]]);
}

/** Highest compression level of each method. Source: QEMU 11.1, qapi/migration.json, multifd-zlib-level, multifd-zstd-level. */
const LEVEL_MAX: Record<Exclude<Compression, "lz4">, number> = { none: 20, zlib: 9, zstd: 20, auto: 20 };

/** @returns What is wrong with the level, or null. Levels mean something only together with their method. */
export function levelComplaint(method: Compression, level: number): string | null {
  if (method === "lz4") return level === 1 ? null : "lz4 has one level, 1";
  if (level <= LEVEL_MAX[method]) return null;
  return `${method} has levels up to ${LEVEL_MAX[method]}`;
}

function rephrase<Value>(parse: () => Value): Value {
  try {
    return parse();
  } catch (error) {
    if (error instanceof MigrationError) throw new InvalidArgumentError(`${error.message}.`);
    throw error;
  }
}
