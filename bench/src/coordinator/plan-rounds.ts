/**
 * Plans rounds over a RAM that is not there, in a process of its own, and prints what that cost.
 *
 *   node plan-rounds.js RAM_BYTES RUNS
 *
 * Everything is the engine's but the guest, whose dirty bits are set here, and the
 * channels, which drop what they claim. So what is measured is the coordinator:
 * taking the bitmap over, splitting it into packets, publishing them, closing the round.
 */
import { Worker } from "node:worker_threads";
import { DeviceStage, PacketRing } from "@multifd/dataplane";
import { BitmapTracker, FirstFailure, RoundPublisher } from "@multifd/engine";
import { DirtyBitmap, describeRamBlock } from "@multifd/memory";
import { packetPagesMax } from "@multifd/protocol";
import { readAnonBytes } from "../process-meter.js";
import { spread } from "../statistics.js";
import type { CoordinatorPoint, Density, PlannedRound } from "./coordinator-report.js";
import type { DrainTask } from "./drain-thread.js";

const PAGE_BYTES = 4096;
const CHANNELS = 1;
/** Each density's bits, every 32-bit word alike: pages of RAM are dirty one in a hundred or so, or all. */
const WORDS_PER_BIT = 3;
const densities: readonly Density[] = ["every page", "1 page in 100", "no page"];

const ramBytes = Number(process.argv[2]);
const runs = Number(process.argv[3]);
const block = describeRamBlock("simulated", ramBytes, PAGE_BYTES);
if (block === null) throw new Error(`${ramBytes} bytes are no RAM block of whole pages`);

const before = readAnonBytes(process.pid);
const pagesMax = packetPagesMax(PAGE_BYTES);
const ring = new PacketRing(pagesMax);
const failure = new FirstFailure(() => ring.ring());
const publisher = new RoundPublisher({
  ring,
  stage: new DeviceStage(),
  ram: [{ block, descriptor: -1, offsetBytes: 0 }],
  channels: CHANNELS,
  pagesMax,
  failure,
});
const guestBits = new SharedArrayBuffer(Math.ceil(block.pageCount / 64) * 8);
const tracker = new BitmapTracker([guestBits]);
await tracker.start([block]);
const dirty = new DirtyBitmap(block.pageCount);
const task: DrainTask = { ring: ring.shared, pagesMax };
const threads = Array.from(
  { length: CHANNELS },
  () => new Worker(new URL("drain-thread.js", import.meta.url), { workerData: task }),
);
for (const thread of threads) thread.on("error", (error) => failure.fail(error));

function dirtyGuest(density: Density): void {
  const words = new Uint32Array(guestBits);
  if (density === "every page") words.fill(0xffff_ffff);
  if (density === "1 page in 100") for (let at = 0; at < words.length; at += WORDS_PER_BIT) words[at] = 1 << (at % 31);
}

async function planRounds(density: Density): Promise<PlannedRound> {
  const harvests: number[] = [];
  const publishes: number[] = [];
  let [pages, packets] = [0, 0];
  for (let run = 0; run <= runs; run++) {
    dirtyGuest(density);
    const startedMs = performance.now();
    tracker.harvest(0, dirty);
    const harvestedMs = performance.now();
    pages = dirty.count(); // the engine counts them, too
    await publisher.sendRound([dirty], null, () => Number.POSITIVE_INFINITY);
    packets = ring.publishedPackets;
    if (run === 0) continue; // warms up
    harvests.push(harvestedMs - startedMs);
    publishes.push(performance.now() - harvestedMs);
  }
  return { density, pages, packets, harvestMs: spread(harvests), publishMs: spread(publishes) };
}

const rounds: PlannedRound[] = [];
for (const density of densities) rounds.push(await planRounds(density));
const point: CoordinatorPoint = { ramBytes, rounds, memoryBytes: readAnonBytes(process.pid) - before };
ring.stop("end");
process.stdout.write(`${JSON.stringify(point)}\n`);
