/**
 * Native call: what it costs to cross into the C library and back.
 *
 * Each packet crosses twice at either end, so this decides whether a crossing is
 * noticed beside the 100 µs that a packet takes. The call here places no page,
 * so C checks its block and is done. Prints the median of all rounds.
 */
import { PacketBlock, placePages } from "@multifd/native";
import { median } from "./statistics.js";

const CALLS = 200_000;
/** The first warms up. */
const ROUNDS = 16;

const block = new PacketBlock();
block.pageBytes = 4096;
block.readFromMapping(4096n, 4096n);

function microsecondsPerCall(): number {
  const start = performance.now();
  for (let i = 0; i < CALLS; i++) placePages(block);
  return ((performance.now() - start) * 1000) / CALLS;
}

const rounds = Array.from({ length: ROUNDS }, microsecondsPerCall).slice(1);
process.stdout.write(`${median(rounds).toFixed(3)} µs a call\n`);
