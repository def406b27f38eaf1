import assert from "node:assert/strict";
import { randomFillSync } from "node:crypto";
import { join } from "node:path";
import type { MigrationEvent } from "@multifd/engine";
import { ERAS, type EraName } from "@multifd/protocol";
import { FixtureSource, MAPPINGS, makeSocketDir, type Outcome, STATE, settle, sourceJob, threads } from "./fixture.js";
import {
  ABANDON,
  COMPLETE,
  config,
  ERROR,
  OK,
  RawListener,
  type RawPeer,
  rangeTable,
  request,
  START,
  state,
} from "./fixture-raw.js";
import { runCloudHypervisorSource } from "./source.js";
import type { CloudHypervisorSourceJob } from "./source-job.js";

const HIGH = MAPPINGS[1]!.gpa;
const LOW_BYTES = MAPPINGS[0]!.bytes;
const HIGH_BYTES = MAPPINGS[1]!.bytes;
const PAGE = 4096;

describe("source of Cloud Hypervisor's protocol, towards raw bytes", () => {
  const directory = makeSocketDir();
  const socketPath = join(directory.path, "in.sock");
  let listener: RawListener;
  let source: FixtureSource;
  beforeEach(async () => {
    listener = await RawListener.listen(socketPath);
    source = new FixtureSource();
  });
  afterEach(() => {
    listener.close();
    source.close();
  });
  after(async () => {
    await threads.end();
    directory.drop();
  });

  async function start(
    more: Partial<CloudHypervisorSourceJob> = {},
  ): Promise<{ readonly peer: RawPeer; readonly outcome: Promise<Outcome> }> {
    const outcome = settle(runCloudHypervisorSource(sourceJob(source, socketPath, more)));
    return { peer: await listener.next(), outcome };
  }

  /** Takes exactly this. */
  async function expect(peer: RawPeer, due: Uint8Array, what: string): Promise<void> {
    const came = await peer.take(due.length);
    assert.equal(came.length, due.length, `${what}: the source ended`);
    if (Buffer.compare(came, due) !== 0) {
      assert.equal(came.subarray(0, 64).toString("hex"), Buffer.from(due.subarray(0, 64)).toString("hex"), what);
      assert.fail(`${what}: differs behind its first 64 bytes`);
    }
  }

  function allRam(): Buffer {
    const table = rangeTable([0, LOW_BYTES], [HIGH, HIGH_BYTES]);
    return Buffer.concat([request(4, table.length), table, ...source.content()]);
  }

  type Step = readonly [name: string, wire: () => Uint8Array];
  const steps: readonly Step[] = [
    ["start", () => START],
    ["config", () => config(source.config)],
    ["memory", () => allRam()],
    ["state", () => state(STATE)],
    ["complete", () => COMPLETE],
  ];

  async function answerUpTo(peer: RawPeer, last: string): Promise<void> {
    for (const [name, wire] of steps) {
      await expect(peer, wire(), name);
      if (name === last) return;
      peer.write(OK);
    }
  }

  for (const era of ["v12", "v43", "v50", "v52", "v53", "next"] as const satisfies readonly EraName[]) {
    it(`says exactly what ${era} says, for a guest that does not write`, async () => {
      const { peer, outcome } = await start({ era: ERAS[era] });
      await answerUpTo(peer, "complete");
      peer.write(OK);
      assert.deepEqual(await outcome, { ok: true, acknowledged: true });
      assert.equal((await peer.rest()).length, 0);
      assert.deepEqual(source.calls, ["pause", "snapshot"]);
    });
  }

  it("sends what was written since in ranges of whole runs, once paused, and what the snapshot wrote after that", async () => {
    source.onPause = () => {
      for (const page of [3, 4, 5, 255]) source.dirty(0, page, 1);
      source.dirty(1, 0, 2);
    };
    source.onSnapshot = () => source.dirty(1, 100, 3);
    const { peer, outcome } = await start();
    await expect(peer, START, "start");
    peer.write(OK);
    await expect(peer, config(source.config), "config");
    peer.write(OK);
    await expect(peer, allRam(), "the first pass");
    peer.write(OK);
    const dirty = rangeTable([3 * PAGE, 3 * PAGE], [255 * PAGE, PAGE], [HIGH, PAGE]);
    const contents = [Buffer.alloc(4 * PAGE, 1), Buffer.alloc(PAGE, 2)];
    await expect(peer, Buffer.concat([request(4, 48), dirty, ...contents]), "the last pass");
    peer.write(OK);
    const again = rangeTable([HIGH + 100 * PAGE, PAGE]);
    await expect(peer, Buffer.concat([request(4, 16), again, Buffer.alloc(PAGE, 3)]), "the pass after the snapshot");
    peer.write(OK);
    await expect(peer, state(STATE), "state");
    peer.write(OK);
    await expect(peer, COMPLETE, "complete");
    peer.write(OK);
    assert.deepEqual(await outcome, { ok: true, acknowledged: true });
  });

  it("says CompletePaused where the guest is to stay paused", async () => {
    const { peer, outcome } = await start({ handOver: "leave-paused" });
    await answerUpTo(peer, "state");
    peer.write(OK);
    await expect(peer, request(8, 0), "completePaused");
    peer.write(OK);
    assert.deepEqual(await outcome, { ok: true, acknowledged: true });
  });

  for (const [era, role] of [
    ["v52", ""],
    ["v53", "0100"],
  ] as const) {
    it(`sends RAM on additional channels as ${era} does, in chunks from the table's end`, async () => {
      source.close();
      const bytes = 160 << 20;
      source = new FixtureSource({
        live: false,
        mappings: [
          { gpa: 0, bytes: 4096, slot: 0 },
          { gpa: 2 ** 32, bytes, slot: 1 },
        ],
      });
      const { peer, outcome } = await start({ era: ERAS[era], channels: 2 });
      await expect(peer, START, "start");
      peer.write(OK);
      await expect(peer, config(source.config), "config");
      peer.write(OK);
      const others = [await listener.next(), await listener.next()];
      const chunk = 64 << 20;
      const high = 2 ** 32;
      const due = [
        [[high + bytes - chunk, chunk]],
        [[high + bytes - 2 * chunk, chunk]],
        [
          [high, bytes - 2 * chunk],
          [0, 4096],
        ],
      ].map((ranges) => rangeTable(...ranges.map(([gpa, length]) => [gpa!, length!] as const)).toString("hex"));
      const tables: string[] = [];
      const serve = async (other: RawPeer) => {
        await expect(other, Buffer.from(role, "hex"), "role");
        for (;;) {
          const header = await other.take(16);
          if (header.length === 0) return;
          const table = await other.take(Number(header.readBigUInt64LE(8)));
          tables.push(table.toString("hex"));
          let length = 0;
          for (let at = 8; at < table.length; at += 16) length += Number(table.readBigUInt64LE(at));
          for (let left = length; left > 0; left -= 1 << 20) await other.take(Math.min(left, 1 << 20));
          other.write(OK);
        }
      };
      const served = others.map((other) => serve(other));
      await expect(peer, state(STATE), "state");
      assert.deepEqual(tables.toSorted(), due.toSorted());
      peer.write(OK);
      await expect(peer, COMPLETE, "complete");
      peer.write(OK);
      assert.deepEqual(await outcome, { ok: true, acknowledged: true });
      await Promise.all(served);
    }).timeout(60_000);
  }

  for (const [name] of steps) {
    const paused = name === "state" || name === "complete";
    for (const [era, abandons] of [
      ["v43", true],
      ["v50", true],
      ["v52", true],
      ["v53", false],
    ] as const) {
      it(`lets the guest go on when ${era} answers ${name} with Error, and ${abandons ? "says Abandon" : "just closes"}`, async () => {
        const { peer, outcome } = await start({ era: ERAS[era] });
        await answerUpTo(peer, name);
        peer.write(ERROR);
        if (abandons) {
          await expect(peer, ABANDON, "abandon");
          peer.write(OK);
        }
        const result = await outcome;
        assert.equal(!result.ok && result.code, "PEER_REFUSED");
        assert.equal((await peer.rest()).length, 0);
        assert.deepEqual(source.calls, paused ? ["pause", "snapshot", "resume"] : []);
      });
    }

    it(`tells a destination that closes instead of answering ${name}`, async () => {
      const { peer, outcome } = await start();
      await answerUpTo(peer, name);
      peer.close();
      const result = await outcome;
      assert.equal(!result.ok && result.code, name === "complete" ? "ACKNOWLEDGEMENT_LOST" : "CHANNEL_CUT");
      const due = name === "complete" ? ["pause", "snapshot"] : paused ? ["pause", "snapshot", "resume"] : [];
      assert.deepEqual(source.calls, due);
    });

    it(`does not wait for ever for the answer to ${name}`, async () => {
      const { peer, outcome } = await start({ stallTimeoutMs: 1500 });
      await answerUpTo(peer, name);
      const result = await outcome;
      assert.equal(!result.ok && result.code, name === "complete" ? "ACKNOWLEDGEMENT_LOST" : "STALLED");
      peer.close();
    });

    it(`${name === "complete" ? "cannot be cancelled any more" : "says Abandon when it is cancelled"} while ${name} is answered`, async () => {
      const cancel = new AbortController();
      const { peer, outcome } = await start({ signal: cancel.signal });
      await answerUpTo(peer, name);
      cancel.abort();
      peer.write(OK);
      if (name === "complete") {
        assert.deepEqual(await outcome, { ok: true, acknowledged: true });
        return;
      }
      await expect(peer, ABANDON, "abandon");
      peer.write(OK);
      const result = await outcome;
      assert.equal(!result.ok && result.code, "CANCELLED");
      assert.equal(source.calls.includes("pause"), source.calls.includes("resume"));
    });
  }

  it("takes a destination that closed before Complete for one that never had it", async () => {
    const { peer, outcome } = await start();
    await answerUpTo(peer, "state");
    peer.write(OK);
    peer.close();
    const result = await outcome;
    assert.ok(!result.ok);
    // Where the end is only seen once Complete has left, nobody can tell any more.
    const lost = result.code === "ACKNOWLEDGEMENT_LOST";
    assert.deepEqual(source.calls, lost ? ["pause", "snapshot"] : ["pause", "snapshot", "resume"]);
  });

  it("tells an answer that is none", async () => {
    const { peer, outcome } = await start();
    await expect(peer, START, "start");
    peer.write(Buffer.from("01000000000000000100000000000000", "hex"));
    const result = await outcome;
    assert.equal(!result.ok && result.code, "RESPONSE_LENGTH");
  });

  // ---- pages on demand ----

  async function onDemand(): Promise<{ peer: RawPeer; faults: RawPeer; outcome: Promise<Outcome> }> {
    const { peer, outcome } = await start({ memory: "on-demand" });
    await expect(peer, START, "start");
    peer.write(OK);
    await expect(peer, config(source.config), "config");
    peer.write(OK);
    const faults = await listener.next();
    await expect(faults, Buffer.from("0200", "hex"), "role");
    await expect(peer, state(STATE), "state");
    peer.write(OK);
    await expect(peer, COMPLETE, "complete");
    return { peer, faults, outcome };
  }

  async function fetchPages(faults: RawPeer, gpa: number, length: number): Promise<Buffer> {
    faults.write(request(9, 16), rangeTable([gpa, length]));
    const response = await faults.take(16);
    assert.equal(response.toString("hex"), `0100000000000000${toHex64(length)}`);
    return faults.take(length);
  }

  it("hands out pages until the destination has all of them, before and after it answers Complete", async () => {
    const { peer, faults, outcome } = await onDemand();
    const [low, high] = source.content();
    assert.equal(Buffer.compare(await fetchPages(faults, 3 * PAGE, PAGE), low!.subarray(3 * PAGE, 4 * PAGE)), 0);
    peer.write(OK);
    assert.equal(Buffer.compare(await fetchPages(faults, 0, LOW_BYTES), low!), 0);
    assert.equal(Buffer.compare(await fetchPages(faults, HIGH, HIGH_BYTES), high!), 0);
    faults.end();
    assert.deepEqual(await outcome, { ok: true, acknowledged: true });
    assert.deepEqual(source.calls, ["pause", "snapshot"]);
  });

  it("never resumes a guest that runs at the destination without all of its pages", async () => {
    const { peer, faults, outcome } = await onDemand();
    peer.write(OK);
    await fetchPages(faults, 0, LOW_BYTES);
    faults.end();
    const result = await outcome;
    assert.equal(!result.ok && result.code, "PAGES_LOST");
    assert.deepEqual(source.calls, ["pause", "snapshot"]);
  });

  it("resumes it when the destination refuses it before", async () => {
    const { peer, faults, outcome } = await onDemand();
    peer.write(ERROR);
    faults.close();
    const result = await outcome;
    assert.equal(!result.ok && result.code, "PEER_REFUSED");
    assert.deepEqual(source.calls, ["pause", "snapshot", "resume"]);
  });

  for (const [what, wire] of [
    ["no byte", Buffer.concat([request(9, 16), rangeTable([0, 0])])],
    ["more than a GiB", Buffer.concat([request(9, 16), rangeTable([0, 2 ** 30 + 1])])],
    ["what is no RAM", Buffer.concat([request(9, 16), rangeTable([LOW_BYTES, PAGE])])],
    ["with another length", request(9, 8)],
  ] as const) {
    it(`closes a fault channel that asks for ${what}`, async () => {
      const { peer, faults, outcome } = await onDemand();
      peer.write(OK);
      faults.write(wire);
      assert.equal((await faults.rest()).length, 0);
      const result = await outcome;
      assert.equal(!result.ok && result.code, "PAGES_LOST");
    });
  }

  it("refuses, before it connects, what the era or the address does not know", async () => {
    const wrong: readonly Partial<CloudHypervisorSourceJob>[] = [
      { era: ERAS.v21, address: { kind: "tcp", host: "127.0.0.1", port: 1 } },
      { era: ERAS.v50, channels: 2 },
      { channels: 129 },
      { channels: 0 },
      { era: ERAS.v12, memory: "descriptors" },
      { memory: "descriptors", address: { kind: "tcp", host: "127.0.0.1", port: 1 } },
      { memory: "on-demand", era: ERAS.v52 },
      { memory: "on-demand", channels: 2 },
      { handOver: "leave-paused", era: ERAS.v50 },
    ];
    for (const more of wrong) {
      const events: MigrationEvent[] = [];
      const result = await settle(
        runCloudHypervisorSource(sourceJob(source, socketPath, { ...more, onEvent: (event) => events.push(event) })),
      );
      assert.equal(!result.ok && result.code, "CLOUD_HYPERVISOR_TERMS", JSON.stringify(more));
      assert.deepEqual(
        events.map(({ event }) => event),
        ["failed"],
      );
    }
  });

  it("keeps a State of any size as it is", async () => {
    source.state = randomFillSync(new Uint8Array(3_000_001));
    const { peer, outcome } = await start();
    await answerUpTo(peer, "memory");
    peer.write(OK);
    await expect(peer, state(source.state), "state");
    peer.write(OK);
    await expect(peer, COMPLETE, "complete");
    peer.write(OK);
    assert.deepEqual(await outcome, { ok: true, acknowledged: true });
  });
});

function toHex64(value: number): string {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(BigInt(value));
  return bytes.toString("hex");
}
