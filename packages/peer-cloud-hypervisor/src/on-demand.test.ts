/** RAM that comes on demand, towards a source of raw bytes. */
import assert from "node:assert/strict";
import type { CloudHypervisorDestinationJob } from "./destination-job.js";
import { MAPPINGS, makeConfig, STATE } from "./fixture.js";
import { ABANDON, COMPLETE, config, memory, OK, RawPeer, START, state } from "./fixture-raw.js";
import { Receiving, STALL_MS, say, untilStalled } from "./fixture-receiving.js";

const FAULT_ROLE = Buffer.from("0200", "hex");
const BEFORE_FAULTS = [START, config(makeConfig())];
const BEHIND_FAULTS = [state(STATE), COMPLETE];
const RAM_BYTES = MAPPINGS.reduce((sum, { bytes }) => sum + bytes, 0);

describe("RAM on demand, towards raw bytes", () => {
  const receiving = Receiving.inDescribe();

  async function open(more: Partial<CloudHypervisorDestinationJob> = {}) {
    const { outcome } = await receiving.start({ memory: "on-demand", ...more });
    const peer = await RawPeer.connect(receiving.socketPath);
    const begin = say(peer, ...BEFORE_FAULTS);
    await (more.stallTimeoutMs === undefined ? begin : untilStalled(() => begin));
    return { peer, outcome };
  }

  /** Up to Complete, which is not answered yet. */
  async function openFaults(more: Partial<CloudHypervisorDestinationJob> = {}) {
    const { peer, outcome } = await open(more);
    const faults = await RawPeer.connect(receiving.socketPath);
    faults.write(FAULT_ROLE);
    await say(peer, state(STATE));
    peer.write(COMPLETE);
    return { peer, faults, outcome };
  }

  function answer(lengthBytes: number): Buffer {
    const bytes = Buffer.from(OK);
    bytes.writeBigUInt64LE(BigInt(lengthBytes), 8);
    return bytes;
  }

  it("asks for every page once, byte for byte as the protocol has it, and answers Complete when all are in", async () => {
    const { peer, faults, outcome } = await openFaults();
    let asked = 0;
    for (;;) {
      const fault = await faults.take(32);
      if (fault.length === 0) break;
      assert.equal(fault.subarray(0, 16).toString("hex"), "09000000000000001000000000000000");
      const length = Number(fault.readBigUInt64LE(24));
      asked += length;
      faults.write(answer(length), Buffer.alloc(length, 0x5a));
    }
    assert.equal(asked, RAM_BYTES);
    faults.end();
    assert.equal(await peer.status(), 1);
    assert.deepEqual(await outcome, { ok: true, acknowledged: true });
    for (const content of receiving.guest.content()) assert.ok(content.every((byte) => byte === 0x5a));
  });

  /** The first page fault asks for all of the first block. */
  const whole = answer(MAPPINGS[0]!.bytes);
  const wrong: readonly (readonly [what: string, wire: Buffer, code: string])[] = [
    ["Error", Buffer.from("02000000000000000000000000000000", "hex"), "PEER_REFUSED"],
    ["fewer bytes", answer(4096), "PAGE_FAULT_ANSWER"],
    ["more bytes", answer(MAPPINGS[0]!.bytes + 1), "PAGE_FAULT_ANSWER"],
    ["2^64 - 1 bytes", Buffer.from("0100000000000000ffffffffffffffff", "hex"), "WIRE_NUMBER_TOO_LARGE"],
    ["no bytes, as for RAM that is shared", answer(0), "PAGE_FAULT_ANSWER"],
    ["nothing, and closes", Buffer.alloc(0), "CHANNEL_CUT"],
    ["half an answer, and closes", whole.subarray(0, 8), "CHANNEL_CUT"],
    ["an answer without its bytes, and closes", whole, "CHANNEL_CUT"],
    ["half of its bytes, and closes", Buffer.concat([whole, Buffer.alloc(5000)]), "CHANNEL_CUT"],
  ];
  for (const [what, wire, code] of wrong) {
    it(`gives everything back when a page fault is answered with ${what}`, async () => {
      const { peer, faults, outcome } = await openFaults();
      await faults.take(32);
      faults.write(wire);
      if (code === "CHANNEL_CUT") faults.end();
      else assert.equal(await peer.status(), 2);
      peer.close();
      assert.equal(await receiving.refused(outcome), code);
      assert.ok(!receiving.guest.calls.includes("commit resume"));
      faults.close();
    });
  }

  it("answers Memory with Error, and State when no fault channel has come", async () => {
    const first = await open();
    first.peer.write(memory([0, 1, 1]));
    assert.equal(await first.peer.status(), 2);
    first.peer.close();
    assert.equal(await receiving.refused(first.outcome), "COMMAND_OUT_OF_ORDER");
    receiving.renew();
    const second = await open({ handshakeTimeoutMs: 1000 });
    second.peer.write(state(STATE));
    assert.equal(await second.peer.status(), 2);
    second.peer.close();
    assert.equal(await receiving.refused(second.outcome), "FAULT_CHANNEL_MISSING");
  });

  it("answers memory on an additional channel with Error", async () => {
    const { peer, outcome } = await open();
    const other = await RawPeer.connect(receiving.socketPath);
    other.write(Buffer.from("0100", "hex"), memory([0, 4096, 1]));
    assert.equal(await other.status(), 2);
    peer.close();
    assert.equal(await receiving.refused(outcome), "COMMAND_OUT_OF_ORDER");
    other.close();
  });

  for (const [index, wire] of BEHIND_FAULTS.entries()) {
    const name = ["state", "complete"][index]!;
    for (const cut of new Set([0, 15, wire.length - 1])) {
      it(`gives everything back when the source closes after ${cut} bytes of ${name}`, async () => {
        const { peer, outcome } = await open();
        const faults = await RawPeer.connect(receiving.socketPath);
        faults.write(FAULT_ROLE);
        await say(peer, ...BEHIND_FAULTS.slice(0, index));
        peer.write(wire.subarray(0, cut));
        peer.end();
        assert.equal(await receiving.refused(outcome), "CHANNEL_CUT");
        assert.equal((await faults.rest()).length, 0);
        faults.close();
      });
    }

    it(`takes Abandon before ${name} for the end`, async () => {
      const { peer, outcome } = await open();
      const faults = await RawPeer.connect(receiving.socketPath);
      faults.write(FAULT_ROLE);
      await say(peer, ...BEHIND_FAULTS.slice(0, index), ABANDON);
      assert.equal(await receiving.refused(outcome), "ABANDONED");
      assert.equal((await faults.rest()).length, 0);
      faults.close();
    });
  }

  it("answers Error when it is cancelled while RAM comes, and closes the fault channel", async () => {
    const cancel = new AbortController();
    const { peer, faults, outcome } = await openFaults({ signal: cancel.signal });
    assert.equal((await faults.take(32)).length, 32);
    cancel.abort();
    assert.equal(await peer.status(), 2);
    await say(peer, ABANDON);
    assert.equal(await receiving.refused(outcome), "CANCELLED");
    assert.equal((await faults.rest()).length, 0);
    faults.close();
  });

  for (const [what, wire] of [
    ["no answer", Buffer.alloc(0)],
    ["half an answer", whole.subarray(0, 15)],
    ["an answer without its bytes", whole],
    ["half of its bytes", Buffer.concat([whole, Buffer.alloc(5000)])],
  ] as const) {
    it(`does not wait for ever for pages of which ${what} came`, async () => {
      const { peer, outcome } = await open({ stallTimeoutMs: STALL_MS });
      let faults: RawPeer | null = null;
      await untilStalled(async () => {
        faults = await RawPeer.connect(receiving.socketPath);
        faults.write(FAULT_ROLE);
        await say(peer, state(STATE));
        peer.write(COMPLETE);
        faults.write(wire);
      });
      while ((await peer.status()) === 1);
      peer.close();
      assert.equal(await receiving.refused(outcome), "STALLED");
      (faults as RawPeer | null)?.close();
    });
  }
});
