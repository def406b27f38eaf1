import assert from "node:assert/strict";
import { median, medianRatio, spread } from "./statistics.js";

describe("statistics of rounds", () => {
  it("takes the middle of an odd number of rounds, and the mean of the middle two of an even one", () => {
    assert.equal(median([9, 1, 5]), 5);
    assert.equal(median([4, 1, 2, 100]), 3);
  });

  it("is not moved by one disturbed round, and shows it", () => {
    assert.deepEqual(spread([10, 11, 500, 10, 12]), { median: 11, min: 10, max: 500 });
  });

  it("compares round by round, so that a machine that slows down bends no ratio", () => {
    assert.equal(medianRatio([10, 20, 40], [5, 10, 20]), 2);
    assert.equal(median([10, 20, 40]) / median([5, 30, 20]), 1);
    assert.equal(medianRatio([10, 60, 40], [5, 30, 20]), 2);
  });
});
