/**
 * Test fixture: a destination and the guest that it fills, made anew for every test of a `describe`.
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import type { CloudHypervisorDestinationJob } from "./destination-job.js";
import {
  destinationJob,
  FixtureDestination,
  makeSocketDir,
  type Outcome,
  startDestination,
  threads,
} from "./fixture.js";

/** What says requests and hears their answers. */
type Asking = { write(...parts: readonly Uint8Array[]): void; status(): Promise<number | null> };

/** Short enough to be waited for. A busy machine may let it pass in a session that goes on: see `untilStalled`. */
export const STALL_MS = 200;

export class Receiving {
  readonly #directory = makeSocketDir();
  readonly socketPath = join(this.#directory.path, "in.sock");
  guest = new FixtureDestination();

  /** To be called inside a `describe`. */
  static inDescribe(): Receiving {
    const receiving = new Receiving();
    afterEach(() => receiving.renew());
    after(async () => {
      await threads.end();
      receiving.guest.close();
      receiving.#directory.drop();
    });
    return receiving;
  }

  /** A fresh guest. */
  renew(): void {
    this.guest.close();
    this.guest = new FixtureDestination();
  }

  /** Starts a destination for the guest. Resolves when it listens. */
  async start(more: Partial<CloudHypervisorDestinationJob> = {}): Promise<{ readonly outcome: Promise<Outcome> }> {
    const { outcome } = await startDestination(destinationJob(this.guest, this.socketPath, more));
    return { outcome };
  }

  /** The code that the migration failed with; the guest has been given up then. */
  async refused(outcome: Promise<Outcome>): Promise<string> {
    const result = await outcome;
    assert.ok(!result.ok, "the migration was to fail");
    assert.equal(this.guest.calls.at(-1), "abandon");
    return result.code;
  }
}

/** Sends what is answered Ok, message by message. */
export async function say(peer: Asking, ...messages: readonly Uint8Array[]): Promise<void> {
  for (const message of messages) {
    peer.write(message);
    assert.equal(await peer.status(), 1);
  }
}

/**
 * Does what comes before a silence. On a busy machine the other side's clock may run out in the midst of it, which
 * ends in the same way; so nothing is told of that here.
 */
export async function untilStalled(speak: () => Promise<void>): Promise<void> {
  await speak().catch(() => {});
}
