import assert from "node:assert/strict";
import fc from "fast-check";
import { Pacer } from "./pacer.js";

const PACKET = 524_288 + 1344;

describe("pacer", () => {
  it("sets no bound without a limit", () => {
    assert.equal(new Pacer(0, PACKET, 0).packetsAllowed(1, 10 ** 12, 10 ** 6), Number.POSITIVE_INFINITY);
  });

  it("keeps the wire below the limit but for one burst, however the clock and the compression jump", () => {
    const steps = fc.array(
      fc.record({ ms: fc.integer({ min: 1, max: 500 }), ratio: fc.integer({ min: 1, max: 100 }) }),
      {
        minLength: 1,
        maxLength: 200,
      },
    );
    fc.assert(
      fc.property(fc.integer({ min: 10 ** 5, max: 10 ** 10 }), steps, (limit, walk) => {
        const pacer = new Pacer(limit, PACKET, 0);
        const burst = Math.max(limit / 20, PACKET);
        let now = 0;
        let wire = 0;
        for (const { ms, ratio } of walk) {
          now += ms;
          const packets = Math.max(0, pacer.packetsAllowed(now, wire, 0));
          wire += Math.floor((packets * PACKET * ratio) / 100);
          assert.ok(wire <= (limit * now) / 1000 + burst + 1, `${wire} bytes after ${now} ms at ${limit} per second`);
        }
      }),
    );
  });

  it("uses what it is allowed: a busy link runs at the limit", () => {
    for (const limit of [2 * 10 ** 6, 10 ** 8, 4 * 10 ** 9]) {
      const pacer = new Pacer(limit, PACKET, 0);
      let wire = 0;
      for (let now = 10; now <= 10_000; now += 10) wire += Math.max(0, pacer.packetsAllowed(now, wire, 0)) * PACKET;
      assert.ok(wire > limit * 10 * 0.9, `${wire} bytes in ten seconds at ${limit} per second`);
    }
  });

  it("counts packets in full that are published and not yet written", () => {
    const allowed = (outstanding: number) => new Pacer(PACKET * 1000, PACKET, 0).packetsAllowed(50, 0, outstanding);
    assert.deepEqual([allowed(0), allowed(30), allowed(60)], [50, 20, -10]);
  });

  it("lets one packet through after long enough, however low the limit", () => {
    const pacer = new Pacer(1000, PACKET, 0);
    assert.equal(pacer.packetsAllowed(1000, 0, 0), 0);
    assert.equal(pacer.packetsAllowed(PACKET + 1, 0, 0), 1);
  });
});
