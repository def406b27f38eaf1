import assert from "node:assert/strict";
import fc from "fast-check";
import { linearScale, logScale } from "./scales.js";

describe("scales of charts", () => {
  it("goes from 0 to a round number that leaves nothing out", () => {
    assert.deepEqual(linearScale(1167, 4).ticks, [0, 500, 1000, 1500]);
    assert.deepEqual(linearScale(10, 5).ticks, [0, 2, 4, 6, 8, 10]);
    fc.assert(
      fc.property(
        fc.double({ min: 1e-6, max: 1e12, noNaN: true }),
        fc.integer({ min: 1, max: 12 }),
        (max, ticksMax) => {
          const { ticks, at } = linearScale(max, ticksMax);
          assert.ok(at(max) <= 1 + 1e-9 && at(max) > 0.3 && ticks.length <= ticksMax + 1, `${max}: ${ticks}`);
        },
      ),
    );
  });

  it("has an axis even where nothing was measured", () => {
    for (const nothing of [0, Number.NaN, Number.NEGATIVE_INFINITY]) assert.equal(linearScale(nothing).ticks.at(-1), 1);
  });

  it("takes whole powers around everything, and puts zero at the beginning", () => {
    const { ticks, at } = logScale(1, 1024, 2);
    assert.deepEqual([ticks[0], ticks.at(-1), ticks.length], [1, 1024, 11]);
    assert.deepEqual([at(1), at(32), at(1024), at(0)], [0, 0.5, 1, 0]);
    assert.deepEqual(logScale(0.4, 300, 10).ticks, [0.1, 1, 10, 100, 1000]);
    assert.deepEqual(logScale(5, 5, 10).ticks, [1, 10]);
  });
});
