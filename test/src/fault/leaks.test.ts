/** Many migrations in one process, good and bad: afterwards it has the descriptors and threads it had before. */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { type MigrationResult, runDestination, runSource } from "@multifd/engine";
import { filesLeftOpen, openFiles } from "@multifd/native/fixture-open-files";
import { QemuDestinationPeer, QemuSourcePeer } from "@multifd/peer-qemu";
import { ProtocolError } from "@multifd/protocol";
import { createScratchDir, removeScratchDir } from "../peers/index.js";
import { ReceivingGuest } from "./receiving-guest.js";
import { ownError } from "./refusal.js";
import { WatchedGuest } from "./watched-guest.js";

const MIGRATIONS = 200;
/** Every third one fails. */
const FAILS_EVERY = 3;
/** So that pools and libraries have what they keep for good. */
const WARM_UP = 5;
const BYTES = 2 ** 20;
const AT_ONCE = 4;
/** A thread that was told to end may need a moment. */
const ENDING_MS = 10_000;

describe("two hundred migrations in one process", function () {
  this.timeout(180_000); // for slow machines; it judges no time
  let dir: string;
  before(() => {
    dir = createScratchDir();
  });
  after(() => removeScratchDir(dir));

  it("leave neither a descriptor nor a thread behind", async () => {
    for (let i = 0; i < WARM_UP; i++) await migrate(i);
    const before = openFiles();
    const threads = countThreads();
    let next = 0;
    const runner = async () => {
      while (next < MIGRATIONS) await migrate(next++);
    };
    await Promise.all(Array.from({ length: AT_ONCE }, runner));
    assert.deepEqual(await filesLeftOpen(before), []);
    // Of other tests' threads some may have ended meanwhile; of ours, each that stays is one too many.
    for (let wait = 0; countThreads() > threads && wait < ENDING_MS; wait += 20) await sleep(20);
    assert.ok(countThreads() <= threads, `${threads} threads before, ${countThreads()} afterwards`);
  });

  async function migrate(number: number): Promise<void> {
    const isBad = number % FAILS_EVERY === 0;
    const refusals = isBad ? { commit: new ProtocolError("HEIR_REFUSES", "refused") } : {};
    const guest = new WatchedGuest({ bytes: BYTES, stopped: !isBad });
    const heir = new ReceivingGuest(refusals);
    const address = { kind: "unix", path: join(dir, `socket-${number}`) } as const;
    try {
      const peer = await QemuDestinationPeer.listen(address, { channels: 2, handshakeTimeoutMs: 10_000 });
      const terms = { compression: "zstd", onEvent: () => {}, stallTimeoutMs: 10_000 } as const;
      const taken = runDestination({ ...terms, guest: heir, peer });
      const given = runSource({
        ...terms,
        guest,
        peer: new QemuSourcePeer({ address, channels: 2, connectTimeoutMs: 5000 }),
        level: 1,
        devices: null,
        downtimeLimitMs: 1000,
        maxBandwidth: 0,
        roundsMax: 10,
        atRoundLimit: "switchover",
      });
      const codes = await Promise.all([given, taken].map(endCode));
      assert.deepEqual(codes, isBad ? ["PEER_REFUSED", "HEIR_REFUSES"] : ["completed", "completed"]);
    } finally {
      guest.close();
      heir.close();
    }
  }
});

function endCode(migration: Promise<MigrationResult>): Promise<string> {
  return migration.then(
    ({ event }) => event,
    (error: unknown) => ownError(error).code,
  );
}

function countThreads(): number {
  return Number(/^Threads:\s+(\d+)$/m.exec(readFileSync("/proc/self/status", "utf8"))![1]);
}
