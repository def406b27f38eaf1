/** Channels whose packets name their own method, as after a hello: what is taken, and what is refused. */
import assert from "node:assert/strict";
import { compress } from "@mongodb-js/zstd";
import type { PacketMethod } from "@multifd/protocol";
import fc from "fast-check";
import { compressSync } from "lz4-napi";
import { assertZero, filledPage, ramPacket } from "./fixture.js";
import { receiveWire } from "./fixture-receiver.js";

const METHODS: readonly PacketMethod[] = ["none", "lz4", "zstd"];

const plainOf = (pages: readonly number[]) => Buffer.concat(pages.map((page) => filledPage(page)));
/** A block as lz4-napi makes it, without the size in front. */
const lz4Of = (plain: Buffer) => compressSync(plain).subarray(4);

async function packetOf(method: PacketMethod, normal: readonly number[]): Promise<Buffer> {
  const plain = plainOf(normal);
  const payload = method === "lz4" ? lz4Of(plain) : method === "zstd" ? await compress(plain) : plain;
  return ramPacket({ normal, zero: [200], payload, method });
}

describe("a channel after a hello", () => {
  it("takes each packet by its own method, in any order", async () => {
    const order: readonly PacketMethod[] = ["zstd", "none", "lz4", "lz4", "zstd", "none", "zstd", "lz4"];
    const wire = await Promise.all(order.map((method, index) => packetOf(method, [3 * index + 2, 3 * index])));
    const received = await receiveWire(Buffer.concat(wire), { methods: METHODS });
    assert.deepEqual(received.result, { ok: true });
    for (const index of order.keys()) {
      for (const page of [3 * index + 2, 3 * index]) assert.ok(received.page(page).equals(filledPage(page)), `${page}`);
      assertZero(received.page(3 * index + 1), "no packet spoke of it");
    }
    received.close();
  });

  it("refuses a method that the hello did not name", async () => {
    for (const method of ["zlib", "zstd"] as const) {
      const wire = ramPacket({ normal: [1], payload: Buffer.alloc(20), method });
      const received = await receiveWire(wire, { methods: ["none", "lz4"] });
      assert.ok(!received.result.ok && received.result.error.code === "MULTIFD_COMPRESSION");
      assert.match(received.result.error.message, /compressed with z(lib|std), the hello named none, lz4/);
      received.close();
    }
  });

  it("refuses lz4 where no hello named it", async () => {
    const received = await receiveWire(await packetOf("lz4", [1]), { compression: "zstd" });
    assert.ok(!received.result.ok && received.result.error.code === "MULTIFD_COMPRESSION");
    assert.match(received.result.error.message, /compressed with lz4, this side expects zstd/);
    received.close();
  });

  const block = lz4Of(plainOf([5, 6]));
  for (const [what, code, payload, payloadBytes] of [
    ["cut short", "PAYLOAD_CORRUPT", block.subarray(0, -1), undefined],
    ["of more pages", "PAYLOAD_TOO_LONG", lz4Of(plainOf([5, 6, 7])), undefined],
    ["of fewer pages", "PAYLOAD_TOO_SHORT", lz4Of(plainOf([5])), undefined],
    ["of nothing", "MULTIFD_PAYLOAD_SIZE", Buffer.alloc(0), undefined],
    ["larger than any packet", "MULTIFD_PAYLOAD_SIZE", block, 1048577],
    ["longer than what follows", "CHANNEL_CUT", block, block.length + 1],
  ] as const) {
    it(`refuses an lz4 block ${what}, and places nothing of it`, async () => {
      const header = payloadBytes === undefined ? {} : { header: { payloadBytes } };
      const received = await receiveWire(ramPacket({ normal: [5, 6], payload, method: "lz4", ...header }), {
        methods: METHODS,
      });
      assert.ok(!received.result.ok, "it was taken");
      assert.equal(received.result.error.code, code, received.result.error.message);
      assert.match(received.result.error.message, /^channel 1, packet 0: /);
      for (const page of [5, 6]) assertZero(received.page(page), "nothing was placed");
      received.close();
    });
  }

  it("answers any damage to an lz4 packet with what it holds, or a refusal", async () => {
    const packet = await packetOf("lz4", [5, 6]);
    const damage = fc.array(fc.tuple(fc.nat(packet.length - 1), fc.integer({ min: 1, max: 255 })), {
      minLength: 1,
      maxLength: 4,
    });
    await fc.assert(
      fc.asyncProperty(damage, async (changes) => {
        const wire = Buffer.from(packet);
        for (const [at, mask] of changes) wire[at] = wire[at]! ^ mask;
        const received = await receiveWire(wire, { methods: METHODS });
        if (!received.result.ok) assert.match(received.result.error.code, /^[A-Z_]+$/);
        received.close();
      }),
      { numRuns: 20 },
    );
  });
});
