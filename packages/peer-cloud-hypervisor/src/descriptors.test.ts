/** RAM that comes as descriptors, towards a source of raw bytes. */
import assert from "node:assert/strict";
import { ERAS } from "@multifd/protocol";
import type { CloudHypervisorDestinationJob } from "./destination-job.js";
import { MAPPINGS, MemoryFile, makeConfig, type Outcome, STATE } from "./fixture.js";
import { DescriptorPeer, descriptorsOf, slot32 } from "./fixture-descriptors.js";
import { ABANDON, COMPLETE, config, memory, RawPeer, request, START, state } from "./fixture-raw.js";
import { Receiving, STALL_MS, say, untilStalled } from "./fixture-receiving.js";

const CONFIG = config(makeConfig());

/** A message of the local version; the file's descriptor rides on what follows the header. */
type Step = { readonly name: string; readonly wire: Buffer; readonly file?: number };

function memoryFd(file: number): Step {
  const { slot } = MAPPINGS[file]!;
  return { name: `slot ${slot}`, wire: Buffer.concat([request(7, 4), slot32(slot)]), file };
}

const steps: readonly Step[] = [
  { name: "start", wire: START },
  memoryFd(1),
  memoryFd(0),
  { name: "config", wire: CONFIG },
  { name: "state", wire: state(STATE) },
  { name: "complete", wire: COMPLETE },
];

describe("RAM by descriptor, towards raw bytes", () => {
  const receiving = Receiving.inDescribe();
  const peers: DescriptorPeer[] = [];
  let files: MemoryFile[];
  beforeEach(() => {
    files = MAPPINGS.map(({ bytes }) => new MemoryFile(bytes));
  });
  afterEach(() => {
    for (const peer of peers.splice(0)) peer.close();
    for (const file of files) file.close();
  });

  async function open(more: Partial<CloudHypervisorDestinationJob> = {}) {
    const { outcome } = await receiving.start(more);
    const peer = await DescriptorPeer.connect(receiving.socketPath);
    peers.push(peer);
    return { outcome, peer };
  }

  /** Sends a step, or so many bytes of it. */
  function send(peer: DescriptorPeer, { wire, file }: Step, bytes = wire.length): void {
    peer.write(wire.subarray(0, Math.min(16, bytes)));
    if (bytes <= 16) return;
    const payload = wire.subarray(16, bytes);
    if (file === undefined) peer.write(payload);
    else peer.sendPayload(payload, [files[file]!.descriptor]);
  }

  async function sayUpTo(peer: DescriptorPeer, count: number): Promise<void> {
    for (const step of steps.slice(0, count)) {
      send(peer, step);
      assert.equal(await peer.status(), 1, step.name);
    }
  }

  /** Answered Error; all descriptors that came have been closed. */
  async function refused(peer: DescriptorPeer, outcome: Promise<Outcome>): Promise<string> {
    assert.equal(await peer.status(), 2);
    peer.close();
    const code = await receiving.refused(outcome);
    assert.equal(descriptorsOf(files), files.length);
    return code;
  }

  for (const era of [ERAS.v21, ERAS.next]) {
    it(`takes slots in whatever order, answers each, and maps them by Config, of ${era.name}`, async () => {
      const { outcome, peer } = await open({ era });
      await sayUpTo(peer, steps.length);
      assert.deepEqual(await outcome, { ok: true, acknowledged: true });
      assert.deepEqual(
        receiving.guest.adopted.map(({ slot, block }) => [slot, block.lengthBytes]),
        MAPPINGS.map(({ slot, bytes }) => [slot, bytes]),
      );
      assert.deepEqual(receiving.guest.calls, ["config", "adopt", "state", "commit resume"]);
    });
  }

  it("takes them behind Config with 16-bit slots where it is told to, and RAM over the stream as well", async () => {
    const first = await open({ lenientDescriptors: true });
    await say(first.peer, START, CONFIG);
    for (const [index, { slot }] of MAPPINGS.entries()) {
      first.peer.sendSlot(slot32(slot).subarray(0, 2), [files[index]!.descriptor]);
      assert.equal(await first.peer.status(), 1);
    }
    await say(first.peer, state(STATE), COMPLETE);
    assert.deepEqual(await first.outcome, { ok: true, acknowledged: true });
    assert.equal(receiving.guest.adopted.length, MAPPINGS.length);
    receiving.renew();
    const second = await open({ lenientDescriptors: true });
    await say(second.peer, START, CONFIG, memory([0, 4096, 7]), state(STATE), COMPLETE);
    assert.deepEqual(await second.outcome, { ok: true, acknowledged: true });
    assert.equal(receiving.guest.content()[0]![4095], 7);
  });

  const wrong: readonly (readonly [what: string, code: string, slots: readonly (readonly [Buffer, number])[]])[] = [
    ["a 16-bit slot", "MEMORY_FD_LENGTH", [[slot32(0).subarray(0, 2), 1]]],
    ["two descriptors at once", "MEMORY_FD_COUNT", [[slot32(0), 2]]],
    ["no descriptor", "MEMORY_FD_COUNT", [[slot32(0), 0]]],
    [
      "a slot twice",
      "MEMORY_FD_SLOT",
      [
        [slot32(0), 1],
        [slot32(0), 1],
      ],
    ],
  ];
  for (const [what, code, slots] of wrong) {
    it(`answers ${what} with Error, and Abandon with Ok, and closes what came`, async () => {
      const { outcome, peer } = await open();
      await say(peer, START);
      for (const [index, [slot, count]] of slots.entries()) {
        peer.sendSlot(
          slot,
          Array.from({ length: count }, () => files[0]!.descriptor),
        );
        if (index < slots.length - 1) assert.equal(await peer.status(), 1);
      }
      assert.equal(await peer.status(), 2);
      await say(peer, ABANDON);
      assert.equal(await receiving.refused(outcome), code);
      assert.equal(descriptorsOf(files), files.length);
    });
  }

  for (const [what, slot] of [
    ["a slot is missing", 0],
    ["a slot is not the configuration's", 9],
  ] as const) {
    it(`answers State with Error when ${what}`, async () => {
      const { outcome, peer } = await open();
      await say(peer, START);
      peer.sendSlot(slot32(slot), [files[0]!.descriptor]);
      assert.equal(await peer.status(), 1);
      await say(peer, CONFIG);
      peer.write(state(STATE));
      assert.equal(await refused(peer, outcome), "MEMORY_FD_SLOT");
    });
  }

  it("refuses a file that is shorter than its mapping", async () => {
    files[0]!.close();
    files[0] = new MemoryFile(4096);
    const { outcome, peer } = await open();
    await sayUpTo(peer, 4);
    peer.write(state(STATE));
    assert.equal(await refused(peer, outcome), "MEMORY_FD_SIZE");
  });

  for (const where of ["the main channel", "an additional channel"] as const) {
    it(`refuses memory on ${where} behind descriptors, and places no RAM for it`, async () => {
      const { outcome, peer } = await open();
      await sayUpTo(peer, 4);
      const other = where === "the main channel" ? peer : await RawPeer.connect(receiving.socketPath);
      if (other instanceof RawPeer) other.write(Buffer.from("0100", "hex"));
      other.write(memory([0, 4096, 1]));
      assert.equal(await other.status(), 2);
      if (other instanceof RawPeer) other.close();
      peer.close();
      assert.equal(await receiving.refused(outcome), "COMMAND_OUT_OF_ORDER");
      assert.ok(!receiving.guest.calls.includes("place"));
      assert.equal(descriptorsOf(files), files.length);
    });
  }

  it("refuses descriptors behind memory, and where RAM is to come on demand", async () => {
    const first = await open({ lenientDescriptors: true });
    await say(first.peer, START, CONFIG, memory([0, 4096, 1]));
    first.peer.sendSlot(slot32(0), [files[0]!.descriptor]);
    assert.equal(await refused(first.peer, first.outcome), "COMMAND_OUT_OF_ORDER");
    receiving.renew();
    const second = await open({ memory: "on-demand" });
    await say(second.peer, START);
    second.peer.sendSlot(slot32(0), [files[0]!.descriptor]);
    assert.equal(await refused(second.peer, second.outcome), "COMMAND_OUT_OF_ORDER");
  });

  for (const [index, step] of steps.entries()) {
    for (const cut of new Set([0, 1, 15, 16, 17, step.wire.length - 1])) {
      if (cut >= step.wire.length) continue;
      it(`gives everything back when the source closes after ${cut} bytes of ${step.name}`, async () => {
        const { outcome, peer } = await open();
        await sayUpTo(peer, index);
        send(peer, step, cut);
        peer.close();
        assert.equal(await receiving.refused(outcome), "CHANNEL_CUT");
        const adopted = receiving.guest.adopted.length;
        assert.equal(descriptorsOf(files), files.length + adopted, "what was not adopted is closed");
      });
    }

    it(`does not wait for ever for a source that falls silent before or inside ${step.name}`, async () => {
      for (const cut of new Set([0, Math.min(16, step.wire.length - 1), step.wire.length - 1])) {
        const { outcome, peer } = await open({ stallTimeoutMs: STALL_MS });
        await untilStalled(async () => {
          await sayUpTo(peer, index);
          send(peer, step, cut);
        });
        while ((await peer.status()) === 1);
        peer.close();
        assert.equal(await receiving.refused(outcome), "STALLED");
        receiving.renew();
      }
    });

    it(`answers Error when it is cancelled before ${step.name}, and Abandon with Ok`, async () => {
      const cancel = new AbortController();
      const { outcome, peer } = await open({ signal: cancel.signal });
      // An answer proves that a request has been read: before the first, only the connection is known.
      await sayUpTo(peer, Math.max(index, 1));
      cancel.abort();
      assert.equal(await peer.status(), 2);
      await say(peer, ABANDON);
      assert.equal(await receiving.refused(outcome), "CANCELLED");
    });
  }

  for (const [failing, answered] of [
    ["config", 3],
    ["adopt", 4],
    ["state", 4],
    ["commit resume", 5],
  ] as const) {
    it(`answers Error when the guest fails at ${failing}, and Abandon with Ok`, async () => {
      receiving.guest.failAt = failing;
      const { outcome, peer } = await open();
      await sayUpTo(peer, answered);
      send(peer, steps[answered]!);
      assert.equal(await peer.status(), 2);
      await say(peer, ABANDON);
      assert.equal(await receiving.refused(outcome), "TEST_REFUSAL");
    });
  }
});
