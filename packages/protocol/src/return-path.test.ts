import assert from "node:assert/strict";
import { joined, sourceOf, vector } from "./recorded-vectors.test.js";
import { decodeReturnPath, encodePong, encodeShut, encodeSwitchoverAck, type ReturnPathEvent } from "./return-path.js";

async function eventsOf(bytes: Uint8Array, chunkBytes?: number): Promise<ReturnPathEvent[]> {
  const events: ReturnPathEvent[] = [];
  for await (const event of decodeReturnPath(sourceOf(bytes, chunkBytes))) events.push(event);
  return events;
}

describe("return path", () => {
  it("is decoded as QEMU 11.1 answers: PONG, then SHUT", async () => {
    for (const chunkBytes of [1, 16])
      assert.deepEqual(await eventsOf(vector("qemu-11.1/return-path.bin"), chunkBytes), [
        { kind: "pong", value: 1 },
        { kind: "shut", status: 0 },
      ]);
  });

  it("is encoded to the very bytes that QEMU 11.1 answers", () => {
    assert.deepEqual(joined(encodePong(1), encodeShut(0)), vector("qemu-11.1/return-path.bin"));
  });

  it("carries the switchover acknowledgement and a failure", async () => {
    assert.deepEqual(encodeSwitchoverAck(), Uint8Array.of(0, 7, 0, 0));
    assert.deepEqual(await eventsOf(joined(encodeSwitchoverAck(), encodeShut(0xffffffff))), [
      { kind: "switchover-ack" },
      { kind: "shut", status: 0xffffffff },
    ]);
  });

  for (const [what, wire, message] of [
    ["postcopy's page requests", [0, 4, 0, 12], /4 \(REQ_PAGES\)/],
    ["an unknown message", [0, 9, 0, 0], /9 \(unknown\)/],
    ["a PONG of another length", [0, 2, 0, 8], /8 bytes, 4 were due/],
    ["an acknowledgement with a body", [0, 7, 0, 1], /1 bytes, 0 were due/],
  ] as const)
    it(`refuses ${what}`, async () => {
      await assert.rejects(eventsOf(Uint8Array.from(wire)), { code: "RETURN_PATH_MESSAGE", message });
    });

  it("is a broken link when it ends at any byte inside a message", async () => {
    const wire = encodeShut(0);
    for (let cut = 1; cut < wire.length; cut++)
      await assert.rejects(eventsOf(wire.subarray(0, cut)), { code: "STREAM_CUT", message: /^return path, byte/ });
  });
});
