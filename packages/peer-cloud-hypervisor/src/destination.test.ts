import assert from "node:assert/strict";
import { join } from "node:path";
import { CONNECTIONS_MAX, ERAS } from "@multifd/protocol";
import type { CloudHypervisorDestinationJob } from "./destination-job.js";
import {
  destinationJob,
  FixtureDestination,
  MAPPINGS,
  makeConfig,
  makeSocketDir,
  type Outcome,
  STATE,
  startDestination,
  threads,
} from "./fixture.js";
import { openSockets, openSocketsUpTo } from "./fixture-descriptors.js";
import { ABANDON, COMPLETE, config, memory, RawPeer, rangeTable, request, START, state } from "./fixture-raw.js";

const CONFIG = makeConfig();
const PAGE = 4096;
/** Where the second RAM block begins; a hole lies before it. */
const HIGH = MAPPINGS[1]!.gpa;
const LOW_BYTES = MAPPINGS[0]!.bytes;

describe("destination of Cloud Hypervisor's protocol, towards raw bytes", () => {
  const directory = makeSocketDir();
  const socketPath = join(directory.path, "in.sock");
  let guest: FixtureDestination;
  beforeEach(() => {
    guest = new FixtureDestination();
  });
  afterEach(() => guest.close());
  after(async () => {
    await threads.end();
    directory.drop();
  });

  async function open(
    more: Partial<CloudHypervisorDestinationJob> = {},
  ): Promise<{ readonly peer: RawPeer; readonly outcome: Promise<Outcome> }> {
    const { outcome } = await startDestination(destinationJob(guest, socketPath, more));
    return { peer: await RawPeer.connect(socketPath), outcome };
  }

  /** Sends what is answered Ok. */
  async function say(peer: RawPeer, ...messages: readonly Uint8Array[]): Promise<void> {
    for (const message of messages) {
      peer.write(message);
      assert.equal(await peer.status(), 1);
    }
  }

  async function refused(outcome: Promise<Outcome>): Promise<string> {
    const result = await outcome;
    assert.ok(!result.ok, "the migration was to fail");
    assert.equal(guest.calls.at(-1), "abandon");
    return result.code;
  }

  const prefixes = {
    established: [],
    started: [START],
    configured: [START, config(CONFIG)],
    "state-received": [START, config(CONFIG), state(STATE)],
  } as const;
  it("applies ranges in order: repeated, overlapping, unsorted, empty, across commands, and at the seams of RAM", async () => {
    const { peer, outcome } = await open();
    await say(
      peer,
      START,
      config(CONFIG),
      memory([HIGH, 2 * PAGE, 1], [0, 3 * PAGE, 2], [PAGE, PAGE, 3], [HIGH + 5, 0, 9], [100, 7, 4], [PAGE, 1, 5]),
      request(4, 0),
      memory([0, 1, 6], [LOW_BYTES - 1, 1, 7], [HIGH + MAPPINGS[1]!.bytes - 1, 1, 8]),
      state(STATE),
      COMPLETE,
    );
    assert.deepEqual(await outcome, { ok: true, acknowledged: true });
    const low = Buffer.alloc(LOW_BYTES);
    low
      .fill(2, 0, 3 * PAGE)
      .fill(3, PAGE, 2 * PAGE)
      .fill(4, 100, 107);
    low[PAGE] = 5;
    low[0] = 6;
    low[LOW_BYTES - 1] = 7;
    const high = Buffer.alloc(MAPPINGS[1]!.bytes);
    high.fill(1, 0, 2 * PAGE);
    high[high.length - 1] = 8;
    const [lowCame, highCame] = guest.content();
    assert.equal(Buffer.compare(lowCame!, low), 0);
    assert.equal(Buffer.compare(highCame!, high), 0);
    assert.deepEqual([guest.config, guest.state], [Uint8Array.from(CONFIG), Uint8Array.from(STATE)]);
  });

  it("is indifferent to how the bytes are cut into segments", async () => {
    const { peer, outcome } = await open();
    peer.write(START, config(CONFIG), memory([0, PAGE, 1]), state(STATE));
    for (const byte of COMPLETE) {
      await new Promise((resolve) => setImmediate(resolve));
      peer.write(Uint8Array.of(byte));
    }
    for (let answer = 0; answer < 5; answer++) assert.equal(await peer.status(), 1);
    assert.deepEqual(await outcome, { ok: true, acknowledged: true });
  });

  const checks: readonly (readonly [what: string, prefix: readonly Buffer[], wire: Buffer, code: string])[] = [
    ["a Start with a payload", [], request(1, 1), "COMMAND_LENGTH"],
    ["a Start of version 1", [], request(1, 0, 1), "PROTOCOL_VERSION"],
    ["a Complete with a payload", [...prefixes["state-received"]], request(5, 8), "COMMAND_LENGTH"],
    ["a CompletePaused with a payload", [...prefixes["state-received"]], request(8, 16), "COMMAND_LENGTH"],
    ["an Abandon with a payload", [...prefixes.configured], request(6, 1), "COMMAND_LENGTH"],
    ["a State of 2^63 + 1 bytes", [...prefixes.configured], request(3, 2n ** 63n + 1n), "WIRE_NUMBER_TOO_LARGE"],
    ["a table of 2^63 + 16 bytes", [...prefixes.configured], request(4, 2n ** 63n + 16n), "WIRE_NUMBER_TOO_LARGE"],
    ["a Config larger than our limit", [START], request(2, 2 ** 40), "COMMAND_LENGTH"],
    ["a Config of 2^64 - 1 bytes", [START], request(2, 2n ** 64n - 1n), "WIRE_NUMBER_TOO_LARGE"],
    ["a Config that is no JSON", [START], config(Buffer.from("{")), "CONFIG_JSON"],
    ["a Config without memory", [START], config(Buffer.from("{}")), "CONFIG_MEMORY"],
    ["a State larger than our limit", [...prefixes.configured], request(3, 2 ** 40), "COMMAND_LENGTH"],
    ["a table of 15 bytes", [...prefixes.configured], request(4, 15), "RANGE_TABLE_LENGTH"],
    ["a table larger than our limit", [...prefixes.configured], request(4, 2 ** 40), "RANGE_TABLE_TOO_LARGE"],
    ["a range in the hole", [...prefixes.configured], memory([LOW_BYTES, PAGE, 1]), "RANGE_OUTSIDE_RAM"],
    ["a range that runs into the hole", [...prefixes.configured], memory([LOW_BYTES - 1, 2, 1]), "RANGE_OUTSIDE_RAM"],
    [
      "a range that passes 2^64",
      [...prefixes.configured],
      Buffer.concat([request(4, 16), rangeTable([2n ** 64n - 1n, 2n ** 64n - 1n])]),
      "RANGE_OUTSIDE_RAM",
    ],
    [
      "a range of 2^63 bytes",
      [...prefixes.configured],
      Buffer.concat([request(4, 16), rangeTable([0n, 2n ** 63n])]),
      "RANGE_OUTSIDE_RAM",
    ],
    ["a MemoryFd of 5 bytes", [START], request(7, 5), "MEMORY_FD_LENGTH"],
    ["a MemoryFd without a descriptor", [START], Buffer.concat([request(7, 4), Buffer.alloc(4)]), "MEMORY_FD_COUNT"],
    [
      "a MemoryFd behind Config",
      [...prefixes.configured],
      Buffer.concat([request(7, 4), Buffer.alloc(4)]),
      "COMMAND_OUT_OF_ORDER",
    ],
  ];
  /** What the seed's era did not look at, or did not know. */
  const otherwise: Readonly<Record<string, string | null>> = {
    "a Start of version 1": null,
    "a CompletePaused with a payload": "COMMAND_UNKNOWN",
  };
  for (const era of [ERAS.v21, ERAS.next]) {
    for (const [what, prefix, wire, newest] of checks) {
      const code = era === ERAS.v21 && what in otherwise ? otherwise[what]! : newest;
      if (code === null) continue;
      it(`${era.name}: answers ${what} with Error, and applies nothing`, async () => {
        const { peer, outcome } = await open({ era });
        await say(peer, ...prefix);
        peer.write(wire);
        assert.equal(await peer.status(), 2);
        peer.close();
        assert.equal(await refused(outcome), code);
        for (const content of guest.content()) assert.ok(content.every((byte) => byte === 0));
      });
    }
  }

  it("applies nothing of a table whose last range is wrong", async () => {
    const { peer, outcome } = await open();
    await say(peer, START, config(CONFIG));
    peer.write(memory([0, PAGE, 1], [HIGH, PAGE, 1], [HIGH - PAGE, PAGE, 1]));
    assert.equal(await peer.status(), 2);
    peer.close();
    assert.equal(await refused(outcome), "RANGE_OUTSIDE_RAM");
    for (const content of guest.content()) assert.ok(content.every((byte) => byte === 0));
  });

  it("looks at no padding, and takes any version, in the seed's era", async () => {
    const { peer, outcome } = await open({ era: ERAS.v21 });
    const odd = Buffer.from(START);
    odd.fill(0xee, 2, 8);
    await say(peer, odd, ABANDON);
    assert.equal(await refused(outcome), "ABANDONED");
  });

  const session: readonly (readonly [name: string, wire: Buffer])[] = [
    ["start", START],
    ["config", config(CONFIG)],
    ["memory", memory([0, 2 * PAGE, 1], [HIGH, PAGE, 2])],
    ["state", state(STATE)],
    ["complete", COMPLETE],
  ];
  for (const [index, [name, wire]] of session.entries()) {
    const before = session.slice(0, index).map(([, bytes]) => bytes);
    for (const cut of new Set([0, 1, 15, 16, 17, 31, 32, 48, 49, wire.length - 1])) {
      if (cut >= wire.length) continue;
      it(`gives everything back when the source closes after ${cut} bytes of ${name}`, async () => {
        const { peer, outcome } = await open();
        await say(peer, ...before);
        peer.write(wire.subarray(0, cut));
        peer.end();
        assert.equal(await refused(outcome), "CHANNEL_CUT");
      });
    }

    it(`does not wait for ever for a source that falls silent inside ${name}`, async () => {
      const { peer, outcome } = await open({ stallTimeoutMs: 1500 });
      await say(peer, ...before);
      peer.write(wire.subarray(0, wire.length - 1));
      assert.equal(await refused(outcome), "STALLED");
      peer.close();
    });

    it(`answers Error when it is cancelled before ${name}, and Abandon with Ok`, async () => {
      const cancel = new AbortController();
      const { peer, outcome } = await open({ signal: cancel.signal });
      await say(peer, ...before);
      // An answer proves that a request has been read only up to here: the connection itself is known by then.
      if (before.length === 0) await say(peer, START);
      cancel.abort();
      assert.equal(await peer.status(), 2);
      await say(peer, ABANDON);
      assert.equal(await refused(outcome), "CANCELLED");
    });
  }

  for (const [step, answered] of [
    ["config", 1],
    ["place", 1],
    ["state", 3],
    ["commit resume", 4],
  ] as const) {
    it(`answers Error when the guest fails at ${step}, and Abandon with Ok`, async () => {
      guest.failAt = step;
      const { peer, outcome } = await open();
      const messages = session.map(([, wire]) => wire);
      await say(peer, ...messages.slice(0, answered));
      peer.write(messages[answered]!);
      assert.equal(await peer.status(), 2);
      await say(peer, ABANDON);
      assert.equal(await refused(outcome), "TEST_REFUSAL");
    });
  }

  // ---- additional channels ----

  /** A main channel after Config, and another connection. */
  async function openTwo(more: Partial<CloudHypervisorDestinationJob> = {}) {
    const { peer, outcome } = await open(more);
    await say(peer, START, config(CONFIG));
    return { peer, outcome, other: await RawPeer.connect(socketPath) };
  }

  for (const [form, first] of [
    ["with a role said first (v53)", Buffer.from("0100", "hex")],
    ["that begin with a command (v52)", Buffer.alloc(0)],
  ] as const) {
    it(`takes memory on additional channels ${form}`, async () => {
      const { peer, outcome, other } = await openTwo();
      other.write(first, memory([PAGE, PAGE, 4]));
      assert.equal(await other.status(), 1);
      await say(other, memory([HIGH, PAGE, 5]));
      other.end();
      await say(peer, memory([0, PAGE, 3]), state(STATE), COMPLETE);
      assert.deepEqual(await outcome, { ok: true, acknowledged: true });
      const [low, high] = guest.content();
      assert.deepEqual([low![0], low![PAGE], low![2 * PAGE], high![0]], [3, 4, 0, 5]);
    });
  }

  for (const [what, first] of [
    ["a role of 0", "0000"],
    ["an unknown role", "0300"],
    ["a fault channel that nobody waits for", "0200"],
  ] as const) {
    it(`drops ${what}, and goes on without it`, async () => {
      const { peer, outcome, other } = await openTwo();
      other.write(Buffer.from(first, "hex"));
      assert.equal((await other.rest()).length, 0);
      await say(peer, state(STATE), COMPLETE);
      assert.deepEqual(await outcome, { ok: true, acknowledged: true });
    });
  }

  it("drops an additional channel that does not say what it is", async () => {
    const { peer, outcome, other } = await openTwo({ handshakeTimeoutMs: 1000 });
    assert.equal((await other.rest()).length, 0);
    await say(peer, state(STATE), COMPLETE);
    assert.deepEqual(await outcome, { ok: true, acknowledged: true });
  });

  for (const [what, wire, code] of [
    ["any other command", state(STATE), "COMMAND_OUT_OF_ORDER"],
    ["a range outside RAM", memory([LOW_BYTES, 1, 1]), "RANGE_OUTSIDE_RAM"],
  ] as const) {
    it(`answers ${what} on an additional channel with Error, and fails`, async () => {
      const { peer, outcome, other } = await openTwo();
      other.write(Buffer.from("0100", "hex"), wire);
      assert.equal(await other.status(), 2);
      peer.close();
      assert.equal(await refused(outcome), code);
    });
  }

  it("takes as many additional channels as the protocol allows, and fails at one more", async () => {
    const { peer, outcome } = await open();
    await say(peer, START, config(CONFIG));
    const others: RawPeer[] = [];
    for (let count = 0; count < CONNECTIONS_MAX; count++) {
      const other = await RawPeer.connect(socketPath);
      others.push(other);
      other.write(Buffer.from("0000", "hex")); // no role at all: dropped, and counted all the same
      assert.equal((await other.rest()).length, 0);
    }
    await say(peer, memory([0, PAGE, 1]));
    others.push(await RawPeer.connect(socketPath));
    assert.equal(await peer.status(), 2);
    peer.close();
    assert.equal(await refused(outcome), "CHANNELS_TOO_MANY");
    for (const other of others) other.close();
  });

  it("fails when an additional channel ends inside a command, or State comes before it is done", async () => {
    const first = await openTwo();
    first.other.write(Buffer.from("0100", "hex"), memory([0, PAGE, 1]).subarray(0, 100));
    first.other.end();
    first.peer.end();
    assert.equal(await refused(first.outcome), "CHANNEL_CUT");
    guest.close();
    const second = await openTwo();
    second.other.write(Buffer.from("0100", "hex"), memory([0, PAGE, 1]));
    assert.equal(await second.other.status(), 1);
    second.other.write(memory([0, PAGE, 1]).subarray(0, 100));
    second.peer.write(state(STATE));
    // Whichever of the two is read first, the other one is a fault.
    let status = await second.peer.status();
    if (status === 1) status = await second.peer.status();
    assert.equal(status, 2);
    second.peer.close();
    assert.match(await refused(second.outcome), /^(MEMORY_UNFINISHED|COMMAND_OUT_OF_ORDER)$/);
    second.other.close();
  });

  it("lets no socket leak, however a migration ends", async () => {
    const before = openSockets();
    for (const wires of [[START], [START, config(CONFIG)], session.map(([, wire]) => wire)]) {
      const { peer, outcome } = await open();
      await say(peer, ...wires);
      peer.close();
      await outcome;
      guest.close();
    }
    assert.ok((await openSocketsUpTo(before)) <= before);
  });
});
