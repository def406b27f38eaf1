import assert from "node:assert/strict";
import type { MigrationEvent, MigrationResult } from "@multifd/engine";
import { EventOutput } from "./event-output.js";
import { milestone, ProgressLine } from "./progress-line.js";
import { recordingTerminal } from "./recording-terminal.js";

const totals = { ramBytes: 2 ** 30, wireBytes: 5e8, normalPages: 1000, zeroPages: 24, rounds: 2 };
const round: MigrationEvent = { event: "round", round: 2, dirtyPages: 16384, dirtyBytes: 2 ** 26 };
const progress: MigrationEvent = {
  event: "progress",
  ...totals,
  elapsedMs: 500,
  remainingBytes: 2 ** 28,
  bytesPerSecond: 1.75e9,
  expectedDowntimeMs: 42,
};
const completed: MigrationResult = {
  event: "completed",
  ...totals,
  totalMs: 1240,
  downtimeMs: 12,
  cpuSeconds: 0.5,
  acknowledged: true,
};

describe("progress line", () => {
  it("tells percent, speed, the round and the expected downtime", () => {
    const line = new ProgressLine();
    assert.equal(line.update(round), null);
    assert.equal(line.update(progress), " 75.0 % | 1.75 GB/s | round 2, 16384 dirty pages | expected downtime 42 ms");
  });

  it("leaves out what a destination cannot know", () => {
    assert.equal(
      new ProgressLine().update({ ...progress, remainingBytes: 0, expectedDowntimeMs: null }),
      "100.0 % | 1.75 GB/s | 0 B left",
    );
  });

  it("sums a migration up, and says when nobody acknowledged it", () => {
    assert.equal(
      milestone(completed),
      "completed in 1.24 s: 1.00 GiB of RAM (866 MB/s), 477 MiB on the wire, 1000 normal and 24 zero pages in 2 rounds, CPU 0.50 s, downtime 12 ms",
    );
    assert.match(milestone({ ...completed, downtimeMs: null, acknowledged: false })!, /CPU 0.50 s, not acknowledged/);
  });
});

describe("event output", () => {
  it("prints one JSON object per line on stdout, and nothing for people, with --json", () => {
    const terminal = recordingTerminal(true);
    const output = new EventOutput(terminal, { json: true });
    for (const event of [round, progress, completed]) output.show(event);
    const lines = terminal.outText().trimEnd().split("\n");
    assert.deepEqual(
      lines.map((line) => JSON.parse(line)),
      [round, progress, completed],
    );
    assert.equal(terminal.errText(), "");
  });

  it("prints a line per round where stderr is no terminal", () => {
    const terminal = recordingTerminal(false);
    const output = new EventOutput(terminal, {});
    for (const event of [round, progress]) output.show(event);
    assert.equal(terminal.errText(), "round 2: 16384 dirty pages, 64.0 MiB\n");
    assert.equal(terminal.outText(), "");
  });

  it("draws one line within the terminal's width, and clears it for the result", () => {
    const terminal = recordingTerminal(true);
    const output = new EventOutput(terminal, {});
    for (const event of [round, progress, completed]) output.show(event);
    const [drawn, cleared] = terminal.errText().split("\r\x1b[2K").slice(1);
    assert.equal(drawn, " 75.0 % | 1.75 GB/s | round 2, 16384 dirty pages | expected");
    assert.match(cleared!, /^completed in 1.24 s.*\n$/);
  });

  it("logs every event on stderr with --verbose, beside the JSON on stdout", () => {
    const terminal = recordingTerminal(false);
    new EventOutput(terminal, { json: true, verbose: true }).show(round);
    assert.equal(JSON.parse(terminal.errText()).dirtyPages, 16384);
    assert.equal(JSON.parse(terminal.outText()).dirtyPages, 16384);
  });
});
