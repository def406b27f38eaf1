/**
 * Options of the bench, from the command line.
 */
import { parseArgs } from "node:util";
import { type Address, parseAddress } from "@multifd/channel";
import type { QemuVersion } from "@multifd/test/peers";
import { codecs } from "./codecs.js";
import type { Transport } from "./endpoint.js";
import { images } from "./images.js";
import { liveVariants } from "./live/measure-live.js";
import type { Lists } from "./plan.js";
import { isWanted, variantsWith } from "./variants.js";

const parts = ["speed", "live", "coordinator"] as const;
export type Part = (typeof parts)[number];

export type MeasureOptions = {
  readonly kind: "measure";
  readonly lists: Lists;
  readonly full: boolean;
  readonly rounds: number;
  /** Only variants whose name has one of these in it; empty for all. */
  readonly only: readonly string[];
  readonly qemu: QemuVersion;
  readonly parts: readonly Part[];
  readonly liveRamBytes: number;
  /** Null: from slow to what does not converge. */
  readonly liveRates: readonly number[] | null;
  readonly downtimeLimitMs: number;
  /** Of live guests; 0 for no limit. */
  readonly liveBandwidth: number;
  /** Folder of the report. */
  readonly outDir: string;
  /** A harness that listens on the machine where destinations are to run; null for this machine. */
  readonly to: Address | null;
};

export type ListenOptions = { readonly kind: "listen"; readonly listen: Address; readonly qemu: QemuVersion };

export type Options = MeasureOptions | ListenOptions;

const names = (all: readonly { readonly method?: string; readonly name?: string }[]) =>
  all.map(({ method, name }) => method ?? name).join(", ");

export const help = `Measures multifd beside QEMU and a raw loop, on the same RAM, in turns.

Usage: multifd bench [options], or npm run bench -- [options]

Without options: 1 GiB, ${names(codecs)}, 2 channels, unix sockets; sizes below it; live guests; the coordinator alone.
A setting takes a list (1,2,4); all combinations of what is listed are measured.

  --ram-bytes SIZES     guest RAM, such as 512M,4G; up to twice that must be free (default 1G)
  --compression LIST    of ${names(codecs)} (default all)
  --channels LIST       packet channels, 1 to 64 (default 2)
  --transport LIST      of unix, tcp (default unix)
  --image LIST          what RAM holds, of ${names(images)} (default mixed)
  --full                4 GiB, and each of these settings in turn for every codec: hours
  --runs N              counted rounds, after one that warms up (default 5)
  --only TEXT           variants with TEXT in their name, given again for more; ratios need what they compare with
  --qemu VERSION        11.1 or 7.2 (default 11.1)
  --parts LIST          of ${parts.join(", ")} (default all)
  --live-ram SIZE       RAM of live guests (default 512M)
  --live-rates LIST     RAM that they dirty a second, such as 50M,400M (default: doubling until nothing converges)
  --live-bandwidth SIZE a second, that their wire is held to, or none (default 512M, some 4 Gbit/s)
  --downtime-limit MS   of live guests (default 100)
  --out DIR             for report.json and report.html (default bench-report)

Two machines, each with this program; whoever reaches the first one's port may use it, so keep it off open networks:

  --listen ADDRESS      run destinations for a bench on another machine, tcp:HOST:PORT
  --to ADDRESS          let destinations run where a bench listens (speed only)

What each figure means: bench/README.md. Exit codes: 0 done, 1 failed, 2 usage.`;

/** What is wrong with a command line. */
export class UsageError extends Error {}

const TRANSPORTS: readonly Transport[] = ["unix", "tcp"];
const QEMUS: readonly QemuVersion[] = ["11.1", "7.2"];
const CHANNELS_MAX = 64;
const RUNS_MAX = 1000;
const DOWNTIME_MAX_MS = 60_000;
/** RAM is moved in packets of this size, and the raw loop knows whole ones only. */
const PACKET_BYTES = 512 * 1024;
const RAM_MIN = 16 * 2 ** 20;
/** The firmware keeps the ends of RAM to itself, and the guest's range ends below 3 GiB. */
const LIVE_RAM = { min: 32 * 2 ** 20, max: 2 * 2 ** 30 };

/** @returns null where help was asked for. @throws {UsageError} */
export function parseOptions(words: readonly string[]): Options | null {
  const { values } = parse(words);
  if (values.help) return null;
  const qemu = oneOf("--qemu", values.qemu, QEMUS);
  if (values.listen !== undefined) {
    const others = words.filter((word) => word.startsWith("--") && !/^--(listen|qemu)(=|$)/.test(word));
    if (others.length > 0)
      throw new UsageError(`${others[0]}: goes to the bench that measures, not to the one that listens`);
    return { kind: "listen", listen: address("--listen", values.listen), qemu };
  }
  const to = values.to === undefined ? null : address("--to", values.to);
  const transports = list("--transport", values.transport, (text) => oneOf("--transport", text, TRANSPORTS));
  if (to !== null && transports?.some((transport) => transport !== to.kind)) {
    throw new UsageError(`--transport: with --to ${values.to} it is ${to.kind}`);
  }
  const chosenParts =
    to === null
      ? (list("--parts", values.parts, (text) => oneOf("--parts", text, parts)) ?? parts)
      : (["speed"] as const);
  return {
    kind: "measure",
    lists: {
      codecs: codecsOf(values.compression),
      channels: list("--channels", values.channels, (text) => wholeNumber("--channels", text, CHANNELS_MAX)),
      transports: to === null ? transports : [to.kind],
      images: list("--image", values.image, (text) =>
        oneOf(
          "--image",
          text,
          images.map(({ name }) => name),
        ),
      ),
      sizes: list("--ram-bytes", values["ram-bytes"], (text) => ramBytes("--ram-bytes", text)),
    },
    full: values.full,
    rounds: wholeNumber("--runs", values.runs, RUNS_MAX),
    only: variantNames(values.only, chosenParts, qemu),
    qemu,
    parts: chosenParts,
    liveRamBytes: liveRam(values["live-ram"]),
    liveRates: list("--live-rates", values["live-rates"], (text) => byteSize("--live-rates", text)),
    liveBandwidth: values["live-bandwidth"] === "none" ? 0 : byteSize("--live-bandwidth", values["live-bandwidth"]),
    downtimeLimitMs: wholeNumber("--downtime-limit", values["downtime-limit"], DOWNTIME_MAX_MS),
    outDir: values.out,
    to,
  };
}

function parse(words: readonly string[]) {
  try {
    return parseArgs({
      args: [...words],
      options: {
        "ram-bytes": { type: "string" },
        channels: { type: "string" },
        compression: { type: "string" },
        transport: { type: "string" },
        image: { type: "string" },
        full: { type: "boolean", default: false },
        runs: { type: "string", default: "5" },
        only: { type: "string", multiple: true, default: [] },
        qemu: { type: "string", default: "11.1" },
        parts: { type: "string" },
        "live-ram": { type: "string", default: "512M" },
        "live-rates": { type: "string" },
        "live-bandwidth": { type: "string", default: "512M" },
        "downtime-limit": { type: "string", default: "100" },
        out: { type: "string", default: "bench-report" },
        listen: { type: "string" },
        to: { type: "string" },
        help: { type: "boolean", short: "h", default: false },
      },
    });
  } catch (error) {
    throw new UsageError((error as Error).message);
  }
}

function variantNames(only: readonly string[], chosenParts: readonly Part[], qemu: QemuVersion): readonly string[] {
  const speed = chosenParts.includes("speed") ? variantsWith(qemu, () => "") : [];
  const live = chosenParts.includes("live") ? liveVariants(qemu) : [];
  const known = [...new Set([...speed, ...live].map(({ name }) => name))];
  for (const text of only) {
    if (known.some((name) => isWanted(name, [text]))) continue;
    throw new UsageError(`--only ${text}: no variant has that in its name; they are ${known.join(" | ")}`);
  }
  return only;
}

/** In the order of the table, for a codec that chooses is judged by those before it. */
function codecsOf(text: string | undefined): MeasureOptions["lists"]["codecs"] {
  const known = codecs.map(({ method }) => method);
  const methods = list("--compression", text, (item) => oneOf("--compression", item, known));
  return methods && codecs.filter(({ method }) => methods.includes(method));
}

/** Null where nothing was said. */
function list<Value>(name: string, text: string | undefined, read: (item: string) => Value): readonly Value[] | null {
  if (text === undefined) return null;
  const values = text.split(",").map(read);
  if (new Set(values).size < values.length) throw new UsageError(`${name} ${text}: names something twice`);
  return values;
}

function address(name: string, text: string): Address {
  try {
    return parseAddress(text);
  } catch (error) {
    throw new UsageError(`${name} ${text}: ${(error as Error).message}`);
  }
}

function liveRam(text: string): number {
  const bytes = ramBytes("--live-ram", text);
  if (bytes >= LIVE_RAM.min && bytes <= LIVE_RAM.max) return bytes;
  throw new UsageError(`--live-ram ${text}: write a size from 32M to 2G`);
}

function ramBytes(name: string, text: string): number {
  const bytes = byteSize(name, text);
  if (bytes >= RAM_MIN && bytes % PACKET_BYTES === 0) return bytes;
  throw new UsageError(`${name} ${text}: write a size from 16M up, such as 512M or 4G`);
}

function byteSize(name: string, text: string): number {
  const match = /^([1-9]\d{0,5})([MG])$/.exec(text);
  if (match) return Number(match[1]) * (match[2] === "G" ? 2 ** 30 : 2 ** 20);
  throw new UsageError(`${name} ${text}: write a size such as 512M or 4G`);
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
