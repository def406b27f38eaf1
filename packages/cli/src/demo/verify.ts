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

/** Bounds the wait for the next write of a guest with a tiny rate. */
const CHECKS_MAX = 100;

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
    const left = await source.check();
    if (left.running) throw new ProtocolError("DEMO_RUNS_TWICE", "the guest runs at the source although it has moved");
    let pages = 0;
    for (const [index, { block, descriptor }] of source.ram.entries()) {
      const page = await findDifferentPage(block, descriptor, arrived.descriptors[index]!);
      if (page !== null) throw mismatch(`RAM block "${block.name}", page ${page} is not what the source had`);
      pages += block.pageCount;
    }
    const first = await arrived.check();
    if (first.stale + first.corrupt > 0) {
      throw mismatch(
        `the guest found ${first.stale} stale and ${first.corrupt} corrupt pages, the first is page ${first.firstBadPage}`,
      );
    }
    if (!first.running) throw new ProtocolError("DEMO_STANDSTILL", "the guest does not run at the destination");
    if (writes && !(await writesOn(arrived, left.pagesWritten))) {
      throw new ProtocolError("DEMO_STANDSTILL", "the guest does not go on writing at the destination");
    }
    const again = await source.check();
    if (again.pagesWritten !== left.pagesWritten) {
      throw new ProtocolError("DEMO_RUNS_TWICE", "the guest wrote at the source after it had moved");
    }
    return { pages };
  } finally {
    arrived.close();
  }
}

async function writesOn(guest: GuestSocket, pagesWritten: number): Promise<boolean> {
  for (let checks = 0; checks < CHECKS_MAX; checks++) {
    const verdict = await guest.check();
    if (verdict.stale + verdict.corrupt > 0)
      throw mismatch(`page ${verdict.firstBadPage} went bad while the guest ran on`);
    if (verdict.pagesWritten > pagesWritten) return true;
  }
  return false;
}

function mismatch(what: string): ProtocolError {
  return new ProtocolError("DEMO_MISMATCH", what);
}
