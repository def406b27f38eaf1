/** Whatever a destination does instead of answering, at every step of every way to move RAM. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { fstatSync } from "node:fs";
import { createServer, type Socket } from "node:net";
import type { Address } from "@multifd/channel";
import { closeDescriptor } from "@multifd/native";
import { ERAS, type EraName } from "@multifd/protocol";
import { FixtureSource, MAPPINGS, STATE, settle, sourceJob, threads } from "./fixture.js";
import { DescriptorPeer, slot32 } from "./fixture-descriptors.js";
import { ABANDON, COMPLETE, config, ERROR, OK, RawPeer, START, state } from "./fixture-raw.js";
import { expect, failure, Sending, sourceSteps, type Way } from "./fixture-sending.js";
import { runCloudHypervisorSource } from "./source.js";
import type { CloudHypervisorSourceJob } from "./source-job.js";

/** Far more than lies between two messages on a busy machine; waited out by all steps at once. */
const STALL_MS = 4000;

const ways: readonly (readonly [way: Way, era: EraName, abandons: boolean])[] = [
  ["stream", "v12", true],
  ["stream", "next", false],
  ["descriptors", "v21", true],
  ["descriptors", "v50", true],
  ["descriptors", "next", false],
  ["on-demand", "v53", false],
];

describe("steps of a source, towards raw bytes", () => {
  let sending: Sending;
  beforeEach(async () => {
    sending = await Sending.open();
  });
  afterEach(() => sending.close());
  after(() => threads.end());

  /** Up to where a step waits for its answer. */
  async function reach(way: Way, name: string, more: Partial<CloudHypervisorSourceJob> = {}) {
    const { peer, outcome } = await sending.start({ memory: way, ...more });
    await sending.answerUpTo(peer, way, name);
    return { peer, outcome };
  }

  /** What a guest has been asked for that goes on here. */
  function goesOn(calls: readonly string[]): readonly string[] {
    return calls.length > 0 ? [...calls, "resume"] : calls;
  }

  for (const [way, era, abandons] of ways) {
    for (const { name, calls } of sourceSteps(way)) {
      it(`${way}, ${era}: lets the guest go on when ${name} is answered with Error, and ${abandons ? "says Abandon" : "just closes"}`, async () => {
        const { peer, outcome } = await reach(way, name, { era: ERAS[era] });
        peer.write(ERROR);
        if (abandons) {
          await expect(peer, ABANDON, "abandon");
          peer.write(OK);
        }
        assert.equal(await failure(outcome), "PEER_REFUSED");
        assert.equal((await peer.rest()).length, 0);
        assert.deepEqual(sending.source.calls, goesOn(calls));
      });
    }
  }

  for (const way of ["stream", "descriptors", "on-demand"] as const) {
    for (const { name, calls } of sourceSteps(way)) {
      const isLast = name === "complete";
      for (const [what, answer] of [
        ["closes instead of answering", Buffer.alloc(0)],
        ["closes inside the answer to", OK.subarray(0, 15)],
      ] as const) {
        it(`${way}: ${isLast ? "is in doubt about" : "gives up"} a destination that ${what} ${name}`, async () => {
          const { peer, outcome } = await reach(way, name);
          peer.write(answer);
          peer.end();
          assert.equal(await failure(outcome), isLast ? "ACKNOWLEDGEMENT_LOST" : "CHANNEL_CUT");
          assert.deepEqual(sending.source.calls, isLast ? calls : goesOn(calls));
        });
      }

      it(`${way}: ${isLast ? "is in doubt about" : "gives up"} a destination whose answer to ${name} announces bytes`, async () => {
        const { peer, outcome } = await reach(way, name);
        peer.write(Buffer.from("01000000000000000100000000000000", "hex"));
        if (!isLast) await answerAbandon(peer);
        assert.equal(await failure(outcome), isLast ? "ACKNOWLEDGEMENT_LOST" : "RESPONSE_LENGTH");
        assert.deepEqual(sending.source.calls, isLast ? calls : goesOn(calls));
      });

      it(`${way}: ${isLast ? "cannot be cancelled any more" : "says Abandon when it is cancelled"} while ${name} is answered`, async () => {
        const cancel = new AbortController();
        const { peer, outcome } = await reach(way, name, { signal: cancel.signal });
        cancel.abort();
        if (!isLast) {
          peer.write(OK);
          await expect(peer, ABANDON, "abandon");
          peer.write(OK);
          assert.equal(await failure(outcome), "CANCELLED");
          assert.deepEqual(sending.source.calls, goesOn(calls));
          return;
        }
        peer.write(ERROR);
        assert.equal(await failure(outcome), "PEER_REFUSED");
      });
    }
  }

  for (const way of ["stream", "descriptors", "on-demand"] as const) {
    it(`${way}: does not wait for ever for an answer, whichever it is`, async () => {
      for (const thread of sourceSteps(way).map(() => threads.take())) await threads.giveBack(thread); // started, all of them
      const all = sourceSteps(way).map(async ({ name, calls }) => {
        const silent = await Sending.open();
        try {
          const { peer, outcome } = await silent.start({ memory: way, stallTimeoutMs: STALL_MS });
          await silent.answerUpTo(peer, way, name);
          const isLast = name === "complete";
          assert.equal(await failure(outcome), isLast ? "ACKNOWLEDGEMENT_LOST" : "STALLED", name);
          assert.deepEqual(silent.source.calls, isLast ? calls : goesOn(calls));
        } finally {
          silent.close();
        }
      });
      await Promise.all(all);
    }).timeout(60_000);
  }

  it("passes each RAM file with its slot, one descriptor on four bytes, and Config behind them", async () => {
    const path = `${sending.socketPath}.raw`;
    const connected = DescriptorPeer.accept(path);
    const outcome = settle(runCloudHypervisorSource(sourceJob(sending.source, path, { memory: "descriptors" })));
    const peer = await connected;
    const expectBytes = async (due: Uint8Array) => {
      assert.equal((await peer.take(due.length)).toString("hex"), Buffer.from(due).toString("hex"));
    };
    try {
      await expectBytes(START);
      peer.write(OK);
      for (const [index, { slot }] of MAPPINGS.entries()) {
        await expectBytes(Buffer.from("07000000000000000400000000000000", "hex"));
        const { wire, descriptors } = await peer.takeDescriptors(4);
        assert.deepEqual([wire.toString("hex"), descriptors.length], [slot32(slot).toString("hex"), 1]);
        const file = sending.source.files[index]!.descriptor;
        assert.equal(fstatSync(descriptors[0]!).ino, fstatSync(file).ino);
        for (const descriptor of descriptors) closeDescriptor(descriptor);
        peer.write(OK);
      }
      for (const wire of [config(sending.source.config), state(STATE), COMPLETE]) {
        await expectBytes(wire);
        peer.write(OK);
      }
      assert.deepEqual(await outcome, { ok: true, acknowledged: true });
    } finally {
      peer.close();
    }
  });

  for (const kind of ["unix", "tcp"] as const) {
    it(`hears a refusal in the midst of a table's RAM, over ${kind}`, async () => {
      const large = new FixtureSource({ live: false, mappings: [{ gpa: 0, bytes: 64 << 20, slot: 0 }] });
      const server = createServer();
      if (kind === "unix") server.listen(`${sending.socketPath}.large`);
      else server.listen(0, "127.0.0.1");
      await once(server, "listening");
      const bound = server.address();
      const address: Address =
        typeof bound === "string" || bound === null
          ? { kind: "unix", path: `${sending.socketPath}.large` }
          : { kind: "tcp", host: "127.0.0.1", port: bound.port };
      const connected = once(server, "connection");
      const outcome = settle(runCloudHypervisorSource(sourceJob(large, "", { address })));
      const peer = new RawPeer((await connected)[0] as Socket);
      try {
        await expect(peer, START, "start");
        peer.write(OK);
        await expect(peer, config(large.config), "config");
        peer.write(OK);
        assert.equal((await peer.take(16 + 16 + 5000)).readUInt16LE(0), 4);
        peer.socket.pause(); // what is not read keeps the source in the midst of it
        await new Promise((resolve) => peer.socket.write(ERROR, resolve));
        peer.close();
        assert.equal(await failure(outcome), "PEER_REFUSED");
      } finally {
        peer.close();
        server.close();
        large.close();
      }
    });
  }
});

/** The source may say it, and closes either way. */
async function answerAbandon(peer: RawPeer): Promise<void> {
  peer.write(OK);
  await peer.rest();
}
