import assert from "node:assert/strict";
import type { MigrationEvent, MigrationTotals } from "./events.js";
import { ProgressMeter } from "./progress-meter.js";

type Progress = Extract<MigrationEvent, { event: "progress" }>;

describe("progress meter", () => {
  it("tells how much of the round is left, and what downtime is expected, until it is stopped", async () => {
    const totals = { ramBytes: 1 << 20, wireBytes: 0, normalPages: 0, zeroPages: 0, rounds: 1 };
    let heard: (progress: Progress) => void = () => {};
    const next = () =>
      new Promise<Progress>((resolve) => {
        heard = resolve;
      });
    const read = (): MigrationTotals => ({ ...totals });
    const meter = new ProgressMeter((event) => heard(event as Progress), read, 4096);
    meter.start();
    meter.round(100);
    Object.assign(totals, { normalPages: 30, zeroPages: 10, wireBytes: 5 });
    const first = await next();
    assert.deepEqual([first.remainingBytes, first.expectedDowntimeMs, first.wireBytes], [60 * 4096, null, 5]);
    assert.ok(first.bytesPerSecond > 0);

    meter.expect(12.4);
    meter.round(50);
    Object.assign(totals, { zeroPages: 20 });
    const second = await next();
    assert.deepEqual([second.remainingBytes, second.expectedDowntimeMs], [40 * 4096, 12]);

    meter.expect(Number.POSITIVE_INFINITY);
    Object.assign(totals, { normalPages: 1000 });
    const third = await next();
    meter.stop();
    assert.deepEqual([third.remainingBytes, third.expectedDowntimeMs], [0, null]);
  });
});
