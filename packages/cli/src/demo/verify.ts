/**
 * Verifies what the demo claims: nothing was lost, nothing is stale, it runs on.
 *
 * Three questions that do not believe each other. Is every byte that the source
 * had when it was paused at the destination? Does the guest there, asked while it
 * runs, find every page as its own books say? Does it write, and the source not?
 */
import { ProtocolError } from "@multifd/protocol";
import { GuestSocket } from "../guest-socket.js";
import type { LiveGuest } from "../live-guest.js";
import { findDifferentPage } from "./compare-ram.js";
import type { GuestProcess } from "./guest-process.js";

/** Bounds the wait for a write; the guest writes its first page at once. */
const LOOKS_MAX = 1000;

/**
 * @param writes  Whether the guest has a rate at all.
 * @returns Pages compared.
 * @throws {ProtocolError} DEMO_MISMATCH, naming block and page; DEMO_STANDSTILL; DEMO_RUNS_TWICE.
 */
export async function verifyMigration(
  source: LiveGuest,
  destination: GuestProcess,
  writes: boolean,
): Promise<{ readonly pages: number }> {
  const arrived = await GuestSocket.connect(destination.address);
  try {
    const left = await source.status();
    if (left.running) throw new ProtocolError("DEMO_RUNS_TWICE", "the guest runs at the source although it has moved");
    const pages = await compareRam(source, arrived);
    await checkRunsOn(arrived, writes ? left.pagesWritten : null);
    const { stale, corrupt, firstBadPage } = await arrived.check();
    if (stale + corrupt > 0) {
      throw mismatch(`the guest found ${stale} stale and ${corrupt} corrupt pages, the first is page ${firstBadPage}`);
    }
    if ((await source.status()).pagesWritten !== left.pagesWritten) {
      throw new ProtocolError("DEMO_RUNS_TWICE", "the guest wrote at the source after it had moved");
    }
    return { pages };
  } finally {
    arrived.close();
  }
}

async function compareRam(source: LiveGuest, arrived: GuestSocket): Promise<number> {
  let pages = 0;
  for (const [index, { block, descriptor }] of source.ram.entries()) {
    const page = await findDifferentPage(block, descriptor, arrived.descriptors[index]!);
    if (page !== null) throw mismatch(`RAM block "${block.name}", page ${page} is not what the source had`);
    pages += block.pageCount;
  }
  return pages;
}

/** @param pagesWritten  What it had written when it left; null for a guest that never writes. */
async function checkRunsOn(guest: GuestSocket, pagesWritten: number | null): Promise<void> {
  for (let looks = 0; looks < LOOKS_MAX; looks++) {
    const status = await guest.status();
    if (!status.running) break;
    if (pagesWritten === null || status.pagesWritten > pagesWritten) return;
  }
  throw new ProtocolError("DEMO_STANDSTILL", "the guest does not run on at the destination");
}

function mismatch(what: string): ProtocolError {
  return new ProtocolError("DEMO_MISMATCH", what);
}
