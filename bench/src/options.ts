/**
 * Options of the bench, from the command line.
 */
import { parseArgs } from "node:util";
import type { Method, Transport } from "./endpoint.js";

export type Options = {
  readonly ramBytes: number;
  readonly channels: number;
  readonly methods: readonly Method[];
  readonly transport: Transport;
  readonly rounds: number;
  /** Only variants whose name has this in it; empty for all. */
  readonly only: string;
  /** Where the report goes; null for nowhere. */
  readonly jsonPath: string | null;
};

export const help = `Measures multifd beside QEMU 11.1 and a raw loop, on one RAM image, in turns.

Usage: npm run bench -- [options]

  --ram-bytes SIZE      guest RAM: 4G, 512M (default 4G; twice that must be free)
  --channels N          packet channels, 1 to 64 (default 2)
  --compression LIST    of none, zlib, zstd (default none,zlib,zstd)
  --transport T         unix or tcp (default unix)
  --runs N              counted rounds, after one that warms up (default 5)
  --only TEXT           variants with TEXT in their name; ratios need what they compare with
  --json FILE           the whole report, every round in it
  --help

What each figure means: bench/README.md. Exit codes: 0 done, 1 failed, 2 usage.`;

/** What is wrong with a command line. */
export class UsageError extends Error {}

const METHODS: readonly Method[] = ["none", "zlib", "zstd"];
const TRANSPORTS: readonly Transport[] = ["unix", "tcp"];
/** RAM is moved in packets of this size, and the raw loop knows whole ones only. */
const PACKET_BYTES = 512 * 1024;

/** @returns null where help was asked for. @throws {UsageError} */
export function parseOptions(words: readonly string[]): Options | null {
  const { values } = parse(words);
  if (values.help) return null;
  return {
    ramBytes: byteSize(values["ram-bytes"]),
    channels: wholeNumber("--channels", values.channels, 64),
    methods: values.compression.split(",").map((text) => oneOf("--compression", text, METHODS)),
    transport: oneOf("--transport", values.transport, TRANSPORTS),
    rounds: wholeNumber("--runs", values.runs, 1000),
    only: values.only,
    jsonPath: values.json ?? null,
  };
}

function parse(words: readonly string[]) {
  try {
    return parseArgs({
      args: [...words],
      options: {
        "ram-bytes": { type: "string", default: "4G" },
        channels: { type: "string", default: "2" },
        compression: { type: "string", default: METHODS.join(",") },
        transport: { type: "string", default: "unix" },
        runs: { type: "string", default: "5" },
        only: { type: "string", default: "" },
        json: { type: "string" },
        help: { type: "boolean", default: false },
      },
    });
  } catch (error) {
    throw new UsageError((error as Error).message);
  }
}

function byteSize(text: string): number {
  const match = /^(\d{1,6})([MG])$/.exec(text);
  const bytes = match ? Number(match[1]) * (match[2] === "G" ? 2 ** 30 : 2 ** 20) : 0;
  if (bytes >= 16 * 2 ** 20 && bytes % PACKET_BYTES === 0) return bytes;
  throw new UsageError(`--ram-bytes ${text}: write a size from 16M up, such as 512M or 4G`);
}

function wholeNumber(name: string, text: string, max: number): number {
  const value = /^\d{1,6}$/.test(text) ? Number(text) : 0;
  if (value >= 1 && value <= max) return value;
  throw new UsageError(`${name} ${text}: write a whole number from 1 to ${max}`);
}

function oneOf<Value extends string>(name: string, text: string, known: readonly Value[]): Value {
  const found = known.find((value) => value === text);
  if (found !== undefined) return found;
  throw new UsageError(`${name} ${text}: known are ${known.join(", ")}`);
}
