/**
 * Thousands of random sessions against our destination. MULTIFD_SESSIONS sets how many, MULTIFD_SEED where they begin:
 * a session that fails is named by its seed.
 */
import assert from "node:assert/strict";
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { RamPlacement } from "@multifd/engine";
import type { RamBlock } from "@multifd/memory";
import { ConfigError } from "@multifd/protocol";
import {
  destinationJob,
  FixtureDestination,
  MemoryFile,
  makeSocketDir,
  type Outcome,
  startDestination,
  threads,
} from "./fixture.js";
import { RawPeer } from "./fixture-raw.js";
import { makeSession, PAGE, type Session } from "./fixture-session.js";

const SESSIONS = Number(process.env["MULTIFD_SESSIONS"] ?? 1500);
const FIRST_SEED = Number(process.env["MULTIFD_SEED"] ?? 1);
const RAM_BYTES_MAX = 1 << 20;
/** A session that takes longer than this hangs; the slowest, which lets its clocks run out, takes a second or two. */
const HANG_MS = 30_000;
const GUARD = 0xcc;

/** A guest whose blocks lie in one file with a page of guard bytes before, between and behind them. */
class GuardedDestination extends FixtureDestination {
  #blocks: readonly RamBlock[] = [];

  override async placeRam(blocks: readonly RamBlock[]): Promise<readonly RamPlacement[]> {
    const lengthBytes = blocks.reduce((sum, block) => sum + block.lengthBytes + PAGE, PAGE);
    if (lengthBytes > RAM_BYTES_MAX) throw new ConfigError("TEST_RAM", "this guest is small");
    this.#blocks = blocks;
    const file = new MemoryFile(lengthBytes);
    this.files = [file];
    for (const offset of this.#guards()) file.write(offset, new Uint8Array(PAGE).fill(GUARD));
    let at = PAGE;
    return blocks.map((block) => {
      const placement: RamPlacement = {
        block,
        descriptor: file.descriptor,
        through: "file",
        startsZeroed: true,
        fileOffsetBytes: at,
      };
      at += block.lengthBytes + PAGE;
      return placement;
    });
  }

  *#guards(): Generator<number> {
    let at = 0;
    yield at;
    for (const block of this.#blocks) {
      at += PAGE + block.lengthBytes;
      yield at;
    }
  }

  /** The blocks' bytes, once it is certain that nothing beside them was written. */
  checkedContent(): Buffer[] {
    if (this.files.length === 0) return [];
    const all = Buffer.from(this.files[0]!.read());
    const guards = [...this.#guards()];
    for (const at of guards)
      assert.ok(
        all.subarray(at, at + PAGE).every((byte) => byte === GUARD),
        "something was written outside RAM",
      );
    return this.#blocks.map((block, index) =>
      all.subarray(guards[index]! + PAGE, guards[index]! + PAGE + block.lengthBytes),
    );
  }
}

async function write(peer: RawPeer, messages: readonly Buffer[], cutSize: number): Promise<void> {
  const all = Buffer.concat(messages);
  if (cutSize === 0) peer.write(all);
  else {
    for (let at = 0; at < all.length; at += cutSize) {
      peer.write(all.subarray(at, at + cutSize));
      await new Promise((resolve) => setImmediate(resolve));
    }
  }
  peer.end();
}

async function run(session: Session, socketPath: string): Promise<void> {
  const guest = new GuardedDestination();
  try {
    const { outcome } = await startDestination(destinationJob(guest, socketPath, { handshakeTimeoutMs: 200 }));
    const peers = [await RawPeer.connect(socketPath)];
    if (session.other !== null) {
      const other = await RawPeer.connect(socketPath);
      peers.push(other);
      void write(other, session.other, 0);
    }
    await write(peers[0]!, session.main, session.cutSize);
    const hang = new AbortController();
    const result = await Promise.race([outcome, sleep(HANG_MS, null, { signal: hang.signal }).catch(() => null)]);
    hang.abort();
    judge(session, result, guest);
    for (const peer of peers) peer.close();
  } finally {
    guest.close();
  }
}

function judge(session: Session, outcome: Outcome | null, guest: GuardedDestination): void {
  assert.ok(outcome !== null, "the destination hangs");
  assert.ok(outcome.ok || outcome.code !== "DEFECT", `a defect: ${outcome.ok || outcome.message}`);
  const committed = guest.calls.some((call) => call.startsWith("commit"));
  assert.equal(outcome.ok, committed && guest.calls.at(-1) !== "abandon");
  assert.equal(guest.calls.at(-1) === "abandon", !outcome.ok);
  const content = guest.checkedContent();
  if (session.ram === null) return;
  assert.ok(outcome.ok, `refused what was well-formed: ${outcome.ok || outcome.message}`);
  for (const [index, due] of session.ram.entries()) assert.equal(Buffer.compare(content[index]!, due), 0);
}

describe("random sessions of a source", () => {
  const directory = makeSocketDir();
  const socketPath = join(directory.path, "in.sock");
  after(async () => {
    await threads.end();
    directory.drop();
  });

  it(`neither crash nor hang a destination, leak nothing, and write nothing outside RAM (${SESSIONS} of them)`, async () => {
    for (let seed = 0; seed < 20; seed++) await run(makeSession(seed), socketPath); // starts the threads
    const before = readdirSync("/proc/self/fd").length;
    for (let seed = FIRST_SEED; seed < FIRST_SEED + SESSIONS; seed++) {
      try {
        await run(makeSession(seed), socketPath);
      } catch (cause) {
        throw new Error(`session ${seed}: ${(cause as Error).message}`, { cause });
      }
    }
    const after = readdirSync("/proc/self/fd").length;
    assert.ok(after <= before, `${before} descriptors before, ${after} after`);
  }).timeout(Math.max(60_000, SESSIONS * 100));
});
