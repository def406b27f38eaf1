import assert from "node:assert/strict";
import fc from "fast-check";
import { Convergence } from "./convergence.js";

const MIB = 2 ** 20;
const limits = { downtimeLimitMs: 300, roundsMax: 4, atRoundLimit: "fail" } as const;
/** A round in which 100 MiB crossed at 100 MiB/s. */
const second = { normalBytes: 100 * MIB, elapsedMs: 1000 };

describe("convergence", () => {
  it("goes on while what is dirty would take longer than the downtime limit", () => {
    const convergence = new Convergence(limits);
    assert.deepEqual(convergence.judge(second, 50 * MIB), { kind: "another-round", expectedDowntimeMs: 500 });
    assert.deepEqual(convergence.judge(second, 31 * MIB), { kind: "another-round", expectedDowntimeMs: 310 });
  });

  it("goes on below the limit while rounds leave less than the best before, and stops the guest at the third that does not", () => {
    const convergence = new Convergence({ ...limits, roundsMax: 10 });
    for (const [dirtyMib, kind] of [
      [30, "another-round"],
      [20, "another-round"],
      [19, "another-round"],
      [25, "another-round"],
      [17, "another-round"],
      [16, "switch-over"],
    ] as const) {
      assert.equal(convergence.judge(second, dirtyMib * MIB).kind, kind, `${dirtyMib} MiB`);
    }
  });

  it("stops the guest once what is left is sent in a millisecond", () => {
    const verdict = new Convergence(limits).judge(second, 0.1 * MIB);
    assert.deepEqual(verdict, { kind: "switch-over", expectedDowntimeMs: 1, forced: false });
  });

  it("takes a round that is allowed when it may run no other", () => {
    const convergence = new Convergence({ ...limits, roundsMax: 1 });
    const verdict = convergence.judge(second, 30 * MIB);
    assert.deepEqual(verdict, { kind: "switch-over", expectedDowntimeMs: 300, forced: false });
  });

  it("goes on below the limit for twelve times the limit at most, however its rounds without gain fall", () => {
    const withoutGain = fc.uniqueArray(fc.integer({ min: 1, max: 40 }), { minLength: 2, maxLength: 4 });
    fc.assert(
      fc.property(withoutGain, (missed) => {
        const convergence = new Convergence({ ...limits, roundsMax: 100 });
        let extraMs = 0;
        let best = 30 * MIB;
        for (let round = 0; round < 80; round++) {
          const gains = !missed.includes(round);
          const verdict = convergence.judge(second, gains ? best : 30 * MIB);
          if (gains) best *= 0.899;
          if (verdict.kind === "switch-over") return;
          extraMs += verdict.expectedDowntimeMs;
          assert.ok(extraMs <= 12 * limits.downtimeLimitMs, `${extraMs} ms`);
        }
        assert.fail("it never stops the guest");
      }),
    );
  });

  it("switches over at once when nothing is dirty, before any rate is known", () => {
    const verdict = new Convergence(limits).judge({ normalBytes: 0, elapsedMs: 0 }, 0);
    assert.deepEqual(verdict, { kind: "switch-over", expectedDowntimeMs: 0, forced: false });
  });

  it("expects nothing of a link it has not seen at work", () => {
    const convergence = new Convergence(limits);
    const verdict = convergence.judge({ normalBytes: 0, elapsedMs: 1000 }, 1);
    assert.deepEqual(verdict, { kind: "another-round", expectedDowntimeMs: Number.POSITIVE_INFINITY });
  });

  it("lets a short round move its estimate little", () => {
    const convergence = new Convergence(limits);
    convergence.judge(second, 50 * MIB);
    convergence.judge({ normalBytes: 4 * MIB, elapsedMs: 1 }, 50 * MIB); // a burst into empty buffers
    assert.ok(convergence.expectedDowntimeMs(100 * MIB) > 800);
  });

  it("never runs more rounds than it may, and does then what it was told", () => {
    const rounds = fc.array(fc.record({ normalBytes: fc.nat(1e9), elapsedMs: fc.nat(10_000) }), { minLength: 4 });
    fc.assert(
      fc.property(rounds, fc.constantFrom("fail" as const, "switchover" as const), (figures, atRoundLimit) => {
        const convergence = new Convergence({ ...limits, atRoundLimit });
        const verdicts = figures.slice(0, 4).map((round) => convergence.judge(round, 2 ** 50));
        assert.ok(verdicts.slice(0, 3).every(({ kind }) => kind === "another-round" || kind === "switch-over"));
        const last = verdicts[3]!;
        if (atRoundLimit === "fail") assert.equal(last.kind, "will-not-converge");
        else assert.ok(last.kind === "switch-over" && last.forced);
      }),
    );
  });
});
