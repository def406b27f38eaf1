/**
 * Page offsets: what one big-endian 64-bit store costs, as a bigint and as two 32-bit halves.
 *
 * protocol/page-offsets writes 128 of them into every packet, so this decides
 * whether the array behind a header is noticed. Prints the ratio of the medians of
 * both, in turns, and the time of each per page.
 */
import { putPageOffsets } from "@multifd/protocol";
import { median } from "./statistics.js";

const PAGES = 128;
const PAGE_BYTES = 4096;
const PACKETS = 20_000;
const ROUNDS = 15;

const view = new DataView(new ArrayBuffer(8 * PAGES));
const pages = Uint32Array.from({ length: PAGES }, (_, i) => 2 ** 22 + 3 * i);

function putAsBigint(): void {
  for (let i = 0; i < PAGES; i++) view.setBigUint64(8 * i, BigInt(pages[i]! * PAGE_BYTES));
}

function putAsHalves(): void {
  putPageOffsets(view, 0, pages, 0, PAGES, PAGE_BYTES);
}

function nanosecondsPerPage(put: () => void): number {
  const start = performance.now();
  for (let packet = 0; packet < PACKETS; packet++) put();
  return ((performance.now() - start) * 1e6) / (PACKETS * PAGES);
}

/** The first round of each warms up. */
const bigint: number[] = [];
const halves: number[] = [];
for (let round = 0; round <= ROUNDS; round++) {
  bigint.push(nanosecondsPerPage(putAsBigint));
  halves.push(nanosecondsPerPage(putAsHalves));
}
const [a, b] = [median(bigint.slice(1)), median(halves.slice(1))];
process.stdout.write(
  `${(a / b).toFixed(1)} times the cost for a bigint store: ${a.toFixed(2)} ns, two 32-bit stores: ${b.toFixed(2)} ns per page\n`,
);
