/**
 * Auto's choice: what `--compression auto` costs over the best method known beforehand, link by link.
 *
 * For each link every method moves the same image, in turns, each round beginning with another, `multifd send` into
 * `multifd receive`; printed are the medians, and auto's as a part of the best fixed
 * method's. A link is a limit of the source's own (`--max-bandwidth`: packets are held
 * back), a pipe between the two that is emptied no faster than that (send blocks), or none at all.
 *
 *     node bench/dist/auto-choice.js [RAM in MiB] [rounds] [links, such as limit:50,pipe:200,none] [channels] [image]
 */
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { connect, createServer, type Server, type Socket } from "node:net";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import type { MigrationEvent } from "@multifd/engine";
import { findImage } from "./images.js";
import { median } from "./statistics.js";
import { warmMemory } from "./warm-memory.js";

const COMMAND = fileURLToPath(new URL("main.js", import.meta.resolve("@multifd/cli")));
const METHODS = ["none", "lz4", "zstd", "auto"] as const;
const MIB = 2 ** 20;
/** A pipe's turn: what it may pass on in one is a fiftieth of a second's worth. */
const TURN_MS = 20;
const DEFAULT_LINKS = "limit:25,limit:100,limit:400,pipe:25,pipe:100,pipe:200,none";

type Link = { readonly kind: "limit" | "pipe" | "none"; readonly mibPerSecond: number };

const [ramMib = "512", rounds = "3", links = DEFAULT_LINKS, channels = "2", image = "mixed"] = process.argv.slice(2);
const dir = mkdtempSync("/dev/shm/multifd-auto-choice-");

/** Starts one of our commands. @returns its events, as they come. */
function start(words: readonly string[]): AsyncIterable<string> {
  const child = spawn(process.execPath, [COMMAND, ...words, "--json"], { stdio: ["ignore", "pipe", "inherit"] });
  return createInterface({ input: child.stdout });
}

async function lastOf(lines: AsyncIterable<string>): Promise<Extract<MigrationEvent, { event: "completed" }>> {
  let last: MigrationEvent | null = null;
  for await (const line of lines) last = JSON.parse(line) as MigrationEvent;
  if (last?.event === "completed") return last;
  throw new Error(`a migration failed: ${JSON.stringify(last)}`);
}

/** Passes connections on, all of them together no faster than the link. */
function openPipe(
  from: string,
  to: string,
  { mibPerSecond }: Link,
): { readonly server: Server; readonly close: () => void } {
  const sources = new Set<Socket>();
  let credit = 0;
  const timer = setInterval(() => {
    credit = Math.min(credit, 0) + (mibPerSecond * MIB * TURN_MS) / 1000;
    for (const socket of sources) socket.resume();
  }, TURN_MS);
  const server = createServer((socket) => {
    const onward = connect(to);
    sources.add(socket);
    socket.on("close", () => sources.delete(socket));
    for (const each of [socket, onward]) each.on("error", () => {});
    onward.pipe(socket);
    socket.on("data", (chunk) => {
      onward.write(chunk);
      credit -= chunk.length;
      if (credit <= 0) for (const each of sources) each.pause();
    });
    socket.on("end", () => onward.end());
  }).listen(from);
  return {
    server,
    close: () => {
      clearInterval(timer);
      server.close();
    },
  };
}

async function move(method: (typeof METHODS)[number], link: Link): Promise<number> {
  const shared = ["--channels", channels, "--compression", method];
  const received = `${dir}/received`;
  const receiver = start(["receive", "--listen", `unix:${dir}/in`, "--ram", `ram=${received}`, ...shared]);
  const lines = receiver[Symbol.asyncIterator]();
  await lines.next(); // it listens
  const pipe = link.kind === "pipe" ? openPipe(`${dir}/pipe`, `${dir}/in`, link) : null;
  const limit = link.kind === "limit" ? ["--max-bandwidth", `${link.mibPerSecond}M`] : [];
  const to = `unix:${dir}/${pipe === null ? "in" : "pipe"}`;
  warmMemory(dir, Number(ramMib) * MIB);
  const sent = await lastOf(start(["send", "--ram", `ram=${dir}/image`, "--to", to, ...shared, ...limit]));
  await lastOf({ [Symbol.asyncIterator]: () => lines });
  pipe?.close();
  rmSync(received);
  return sent.totalMs;
}

try {
  findImage(image).write(`${dir}/image`, Number(ramMib) * MIB);
  console.log(`${ramMib} MiB, ${image}, ${channels} channels, ${rounds} rounds; ms`);
  console.log(["link".padEnd(12), ...METHODS.map((method) => method.padStart(7)), "auto / best"].join("  "));
  for (const text of links.split(",")) {
    const [kind, rate = "0"] = text.split(":");
    const link = { kind: kind as Link["kind"], mibPerSecond: Number(rate) };
    const times = new Map(METHODS.map((method) => [method, [] as number[]]));
    for (let round = 0; round < Number(rounds); round++)
      for (let turn = 0; turn < METHODS.length; turn++) {
        const method = METHODS[(round + turn) % METHODS.length]!;
        times.get(method)!.push(await move(method, link));
      }
    const medians = METHODS.map((method) => median(times.get(method)!));
    const best = Math.min(...medians.slice(0, -1));
    const figures = medians.map((ms) => `${Math.round(ms)}`.padStart(7));
    console.log([text.padEnd(12), ...figures, (medians.at(-1)! / best).toFixed(3)].join("  "));
  }
} finally {
  rmSync(dir, { recursive: true, force: true });
}
