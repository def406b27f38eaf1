/**
 * Announcement: tells the network where a guest lives now, after it has moved.
 *
 * A guest whose driver agreed on GUEST_ANNOUNCE does it itself when asked, which is
 * the embedder's to do: the device's configuration and interrupts are its own. For
 * any other, the back-end sends an ARP broadcast in the guest's name. Switches
 * forget and frames get lost, so it is said in several rounds, ever further apart.
 * Source: QEMU 11.1, net/announce.c: 5 rounds, 50 ms and 100 ms more each time, 550 ms at most.
 */
import { setTimeout as sleep } from "node:timers/promises";
import type { AttachedDevice } from "./attached-device.js";
import { deviceFeature, hasBit } from "./features.js";

export type AnnounceRounds = {
  readonly rounds: number;
  readonly firstGapMs: number;
  readonly stepMs: number;
  readonly gapMaxMs: number;
};

export const DEFAULT_ANNOUNCE_ROUNDS: AnnounceRounds = { rounds: 5, firstGapMs: 50, stepMs: 100, gapMaxMs: 550 };

export type Announcement = {
  readonly device: AttachedDevice;
  /** Six bytes. */
  readonly mac: Uint8Array;
  /** Asks the guest to announce itself, for one that agreed to; called once per round. */
  readonly askGuest?: () => Promise<void> | void;
  readonly rounds?: AnnounceRounds;
  readonly signal?: AbortSignal;
};

/**
 * Announces a guest that runs here now; resolves after the last round.
 *
 * @returns Who announced it: nobody where neither the guest nor the back-end can.
 * @throws what requests throw, and the signal's reason.
 */
export async function announceGuest(announcement: Announcement): Promise<"guest" | "back-end" | "nobody"> {
  const { device, mac, askGuest, signal, rounds = DEFAULT_ANNOUNCE_ROUNDS } = announcement;
  const byGuest = hasBit(device.guest.features, deviceFeature.guestAnnounce);
  if (byGuest ? askGuest === undefined : !device.frontEnd.has("rarp")) return "nobody";
  for (let round = 0; round < rounds.rounds; round++) {
    if (round > 0)
      await sleep(Math.min(rounds.firstGapMs + (round - 1) * rounds.stepMs, rounds.gapMaxMs), null, { signal });
    signal?.throwIfAborted();
    if (byGuest) await askGuest?.();
    else await device.frontEnd.sendRarp(mac);
  }
  return byGuest ? "guest" : "back-end";
}
