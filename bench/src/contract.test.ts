import assert from "node:assert/strict";
import { findCodec } from "./codecs.js";
import { judge, judgeChoice } from "./contract.js";
import type { Case } from "./plan.js";
import type { Measurement } from "./rounds.js";
import { type Summary, summarize } from "./summary.js";
import { type Role, type Variant, variantsWith } from "./variants.js";

const MIB = 2 ** 20;
const usage = (cpuSeconds: number) => ({ cpuSeconds, peakAnonBytes: 50 * MIB });
const took = (wallMs: number, cpuSeconds = 1): Measurement => ({
  wallMs,
  wireBytes: 1000,
  source: usage(cpuSeconds),
  destination: usage(cpuSeconds),
});

function summaries(rounds: Partial<Record<Role, readonly Measurement[]>>): readonly Summary[] {
  const variants = variantsWith("11.1", () => "devices");
  const measured = new Map<Variant, readonly Measurement[]>();
  for (const [role, had] of Object.entries(rounds)) measured.set(variants.find((each) => each.role === role)!, had);
  return summarize(1e9, measured);
}

const base: Case = { codec: findCodec("none"), channels: 2, transport: "unix", image: "mixed", ramBytes: 1e9 };

describe("summary of a case", () => {
  it("compares with QEMU and with the ceiling round by round, and QEMU with nobody", () => {
    const found = summaries({
      qemu: [took(300), took(600)],
      ours: [took(200), took(300)],
      ceiling: [took(100), took(300)],
    });
    const [qemu, ours, ceiling] = found;
    assert.deepEqual([qemu?.toQemu, ours?.toQemu?.speed, ceiling?.speedToCeiling], [null, 1.75, null]);
    assert.equal(ours?.speedToCeiling, 0.75);
    assert.deepEqual(ours?.megabytesPerSecond, { median: (5000 + 1e4 / 3) / 2, min: 1e4 / 3, max: 5000 });
  });

  it("has no ratios where there is nobody to compare with", () => {
    const [ours] = summaries({ ours: [took(200)] });
    assert.deepEqual([ours?.toQemu, ours?.speedToCeiling], [null, null]);
  });
});

describe("performance contract", () => {
  const promisesOf = (each: Case, found: readonly Summary[]) =>
    judge(each, found).map(({ promise, met }) => [promise, met]);

  it("holds multifd → multifd to speed, CPU, ceiling and memory", () => {
    const found = summaries({ qemu: [took(300, 2)], ours: [took(200, 1)], ceiling: [took(150)] });
    assert.deepEqual(promisesOf(base, found), [
      ["speed, times QEMU's: at least 1.5", true],
      ["CPU of both ends, times QEMU's: at most 0.7", true],
      ["speed, times the ceiling's: at least 0.95", false],
      ["MiB beside RAM, source: at most 112", true],
      ["MiB beside RAM, destination: at most 112", true],
    ]);
  });

  it("is about the mixed image and two channels; memory is judged always", () => {
    const found = summaries({ qemu: [took(300)], ours: [took(200)] });
    const memory = ["MiB beside RAM, source: at most 160", "MiB beside RAM, destination: at most 160"];
    assert.deepEqual(
      promisesOf({ ...base, channels: 8 }, found).map(([promise]) => promise),
      memory,
    );
    assert.equal(judge(base, summaries({ qemu: [took(300)] })).length, 0);
  });

  it("holds auto to the best fixed method of the same settings", () => {
    const found = summaries({ ours: [took(200)] });
    const auto = { ...base, codec: findCodec("auto") };
    assert.deepEqual(
      judgeChoice(auto, found, [400, 195]).map(({ came, met }) => [came, met]),
      [[0.975, true]],
    );
    assert.deepEqual(
      judgeChoice(auto, found, [400, 180]).map(({ met }) => met),
      [false],
    );
    assert.deepEqual(judgeChoice(auto, found, []), []);
    assert.deepEqual(judgeChoice(base, found, [100]), []);
  });
});
