/**
 * Thousands of random sessions against our destination. MULTIFD_SESSIONS sets how many, MULTIFD_SEED where they begin:
 * a session that fails is named by its seed.
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { RamPlacement } from "@multifd/engine";
import type { RamBlock } from "@multifd/memory";
import { ChannelError, ConfigError, ERAS } from "@multifd/protocol";
import {
  destinationJob,
  FixtureDestination,
  MemoryFile,
  makeSocketDir,
  type Outcome,
  startDestination,
  threads,
} from "./fixture.js";
import { DescriptorPeer, descriptorsOf, openSockets, openSocketsUpTo } from "./fixture-descriptors.js";
import { OK, RawPeer } from "./fixture-raw.js";
import { type Message, makeSession, PAGE, SESSION_RAM, type Session } from "./fixture-session.js";
import { within } from "./within.js";

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

/** The source's end of a session, as the session has it. */
class SessionSource {
  readonly #session: Session;
  readonly #socketPath: string;
  readonly #files: readonly MemoryFile[];
  readonly #peers: { close(): void }[] = [];

  /** @param files  Whose descriptors are sent along. */
  constructor(session: Session, socketPath: string, files: readonly MemoryFile[]) {
    this.#session = session;
    this.#socketPath = socketPath;
    this.#files = files;
  }

  async run(): Promise<void> {
    const { main, others, isWellFormed } = this.#session;
    if (main.some(({ descriptors }) => descriptors > 0)) return this.#passDescriptors();
    const peer = await this.#connect();
    if (isWellFormed && others.length > 0) {
      await this.#write(peer, main.slice(0, 2)); // Config's answer lets them in
      for (let answers = 0; answers < 2; answers++) assert.equal(await peer.status(), 1);
      for (const other of others) await this.#runOther(other);
      await this.#write(peer, main.slice(2));
    } else {
      const all = others.map((other) => this.#runOther(other));
      await this.#write(peer, main);
      await Promise.all(all);
    }
    peer.end();
  }

  close(): void {
    for (const peer of this.#peers) peer.close();
  }

  async #connect(): Promise<RawPeer> {
    const peer = await RawPeer.connect(this.#socketPath);
    this.#peers.push(peer);
    return peer;
  }

  async #write(peer: RawPeer, messages: readonly Message[]): Promise<void> {
    const { cutSize } = this.#session;
    const all = Buffer.concat(messages.map(({ wire }) => wire));
    if (cutSize === 0) peer.write(all);
    else {
      for (let at = 0; at < all.length; at += cutSize) {
        peer.write(all.subarray(at, at + cutSize));
        await new Promise((resolve) => setImmediate(resolve));
      }
    }
  }

  /** An additional channel. In a well-formed session its Memory commands are answered before it ends. */
  async #runOther(messages: readonly Message[]): Promise<void> {
    const { memory, isWellFormed } = this.#session;
    let peer: RawPeer;
    try {
      peer = await this.#connect();
    } catch (error) {
      if (isWellFormed) throw error;
      return; // the destination has ended already
    }
    await this.#write(peer, messages);
    if (memory === "on-demand") void this.#answerFaults(peer);
    else {
      const memories = messages.filter(({ wire }) => wire[0] === MEMORY).length;
      if (isWellFormed) for (let answers = 0; answers < memories; answers++) assert.equal(await peer.status(), 1);
      peer.end();
    }
  }

  async #answerFaults(peer: RawPeer): Promise<void> {
    const { faults, ram } = this.#session;
    for (let number = 0; ; number++) {
      const fault = await peer.take(32);
      const gpa = Number(fault.length < 32 ? -1 : fault.readBigUInt64LE(16));
      const block = SESSION_RAM.findIndex((mapping) => gpa >= mapping.gpa && gpa < mapping.gpa + mapping.bytes);
      if (block < 0) break;
      if (number === faults?.number) {
        peer.write(faults.instead);
        break;
      }
      const length = fault.readBigUInt64LE(24);
      const header = Buffer.from(OK);
      header.writeBigUInt64LE(length, 8);
      const from = gpa - SESSION_RAM[block]!.gpa;
      peer.write(header, ram[block]!.subarray(from, from + Number(length)));
    }
    peer.end();
  }

  /** Few bytes, which always find room. */
  async #passDescriptors(): Promise<void> {
    const peer = await DescriptorPeer.connect(this.#socketPath);
    this.#peers.push(peer);
    try {
      for (const [index, { wire, descriptors }] of this.#session.main.entries()) {
        const header = descriptors === 0 ? wire.length : 16;
        if (header > 0) peer.write(wire.subarray(0, header));
        const given = Array.from({ length: descriptors }, () => this.#files[index % this.#files.length]!.descriptor);
        if (wire.length > header) peer.sendPayload(wire.subarray(header), given);
        await new Promise((resolve) => setImmediate(resolve));
      }
      peer.end();
    } catch (error) {
      if (!(error instanceof ChannelError)) throw error; // the destination has ended already
    }
  }
}

const MEMORY = 4;

async function run(session: Session, socketPath: string, files: readonly MemoryFile[]): Promise<void> {
  const guest = new GuardedDestination();
  const source = new SessionSource(session, socketPath, files);
  let running: Promise<unknown> = Promise.resolve();
  try {
    const { era, memory, lenientDescriptors } = session;
    // Damaged ones may leave a channel without a word, which is waited out; whole ones get the time that a busy machine needs.
    const handshakeTimeoutMs = session.isWellFormed ? HANG_MS : 200;
    const more = { era: ERAS[era], memory, lenientDescriptors, handshakeTimeoutMs };
    const { outcome } = await startDestination(destinationJob(guest, socketPath, more));
    running = outcome;
    const spoken = source.run();
    const hang = new AbortController();
    const end = Promise.all([outcome, spoken]).then(([result]) => result);
    const result = await Promise.race([end, sleep(HANG_MS, null, { signal: hang.signal }).catch(() => null)]);
    hang.abort();
    judge(session, result, guest);
  } finally {
    source.close();
    await within(HANG_MS, running); // it would keep its threads, and they this process
    guest.close();
  }
}

function judge(session: Session, outcome: Outcome | null, guest: GuardedDestination): void {
  assert.ok(outcome !== null, "the destination hangs");
  assert.ok(outcome.ok || outcome.code !== "DEFECT", `a defect: ${outcome.ok || outcome.message}`);
  const committed = guest.calls.some((call) => call.startsWith("commit"));
  assert.equal(outcome.ok, committed && guest.calls.at(-1) !== "abandon");
  assert.equal(guest.calls.at(-1) === "abandon", !outcome.ok);
  assert.ok(!guest.calls.includes("adopt") || guest.files.length === 0, "RAM was placed, and adopted as well");
  const content = guest.checkedContent();
  if (!session.isWellFormed) return;
  if (session.isGivenUp) {
    assert.equal(!outcome.ok && outcome.code, "ABANDONED");
    return;
  }
  assert.ok(outcome.ok, `refused what was well-formed: ${outcome.ok || outcome.message}`);
  assert.equal(guest.adopted.length, session.ram.length === 0 ? SESSION_RAM.length : 0);
  for (const [index, due] of session.ram.entries()) assert.equal(Buffer.compare(content[index]!, due), 0);
}

describe("random sessions of a source", () => {
  const directory = makeSocketDir();
  const socketPath = join(directory.path, "in.sock");
  const pattern = SESSION_RAM.map(() => Buffer.alloc(Math.max(...SESSION_RAM.map(({ bytes }) => bytes)), 0xa5));
  let files: MemoryFile[];
  before(() => {
    files = pattern.map((content) => new MemoryFile(content.length, content));
  });
  after(async () => {
    await threads.end();
    for (const file of files) file.close();
    directory.drop();
  });

  it(`neither crash nor hang a destination, leak nothing, and write nothing outside RAM (${SESSIONS} of them)`, async () => {
    const sockets = openSockets();
    for (let seed = FIRST_SEED; seed < FIRST_SEED + SESSIONS; seed++) {
      try {
        await run(makeSession(seed), socketPath, files);
      } catch (cause) {
        throw new Error(`session ${seed}: ${(cause as Error).message}`, { cause });
      }
    }
    const left = await openSocketsUpTo(sockets);
    assert.ok(left <= sockets, `${sockets} sockets before, ${left} after`);
    assert.equal(descriptorsOf(files), files.length);
    for (const [index, file] of files.entries())
      assert.equal(Buffer.compare(file.read(), pattern[index]!), 0, "a file that was handed over was written to");
  }).timeout(Math.max(120_000, SESSIONS * 100));
});
