import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

/** What every line has, and the fields looked at by name; the others are looked up. */
type Line = {
  readonly event: string;
  readonly code?: unknown;
  readonly verifiedPages?: unknown;
  readonly [field: string]: unknown;
};

describe("multifd demo", () => {
  const main = fileURLToPath(new URL("../main.js", import.meta.url));
  let directory = "";
  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), "multifd-demo-test-"));
  });
  afterEach(() => {
    rmSync(directory, { recursive: true });
  });

  /** Runs the command the way a user would; `onLine` may act on the child. */
  async function demo(flags: string, onLine: (line: Line, child: ChildProcess) => void = () => {}) {
    const child = spawn(process.execPath, [main, "demo", "--json", ...flags.split(" ")], {
      stdio: ["ignore", "pipe", "inherit"],
      env: { ...process.env, TMPDIR: directory },
    });
    const lines: Line[] = [];
    createInterface({ input: child.stdout }).on("line", (text) => {
      const line = JSON.parse(text) as Line;
      lines.push(line);
      onLine(line, child);
    });
    const [code] = await once(child, "close");
    return { code, lines, last: lines.at(-1)! };
  }

  for (const flags of [
    "--transport unix",
    "--transport tcp --compression zstd --channels 3",
    "--compression zlib --rate 0",
    "--protocol cloud-hypervisor --channels 4",
  ]) {
    it(`moves a live guest and verifies every page: ${flags}`, async () => {
      const { code, lines, last } = await demo(`--ram-bytes 32M --rate 50M ${flags}`);
      assert.equal(code, 0);
      assert.deepEqual([last.event, last.verifiedPages], ["completed", 8192]);
      for (const field of [
        "totalMs",
        "downtimeMs",
        "rounds",
        "ramBytes",
        "wireBytes",
        "normalPages",
        "zeroPages",
        "cpuSeconds",
      ]) {
        assert.equal(typeof last[field], "number", field);
      }
      assert.deepEqual(
        lines.filter(({ event }) => event === "completed" || event === "failed").length,
        1,
        "one event ends a migration",
      );
      assert.ok(lines.some(({ event }) => event === "switchover"));
      assert.deepEqual(readdirSync(directory), []);
    });
  }

  it("is cancelled by SIGINT, says so, and leaves nothing behind", async () => {
    let isCancelled = false;
    const { code, last } = await demo("--ram-bytes 64M --max-bandwidth 4M", (line, child) => {
      if (line.event !== "progress" || isCancelled) return;
      isCancelled = true;
      child.kill("SIGINT");
    });
    assert.equal(code, 1);
    assert.deepEqual([last.event, last.code], ["failed", "CANCELLED"]);
    assert.deepEqual(readdirSync(directory), []);
  });
});
