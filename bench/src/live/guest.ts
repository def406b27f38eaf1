/**
 * Guest: the demo's guest process, whose RAM is written at a settable rate.
 */
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { EventProcess } from "../event-process.js";

const GUEST = fileURLToPath(new URL("build/multifd-guest", import.meta.resolve("@multifd/kernel/package.json")));
/** It fills its RAM before it is ready. */
const READY_TIMEOUT_MS = 120_000;

/** Starts one whose control socket is at `path`; its RAM is filled when this resolves, unless it waits for a migration. */
export async function startGuest(path: string, ramBytes: number, ...words: readonly string[]): Promise<EventProcess> {
  if (!existsSync(GUEST)) throw new Error(`${GUEST} is missing; run "npm run build" first`);
  const terms = ["--socket", path, "--ram-bytes", `${ramBytes}`, "--exit-with-parent"];
  const guest = new EventProcess("the guest", GUEST, [...terms, ...words]);
  try {
    await guest.expect("listening", READY_TIMEOUT_MS);
    return guest;
  } catch (error) {
    await guest.stop();
    throw error;
  }
}
