/**
 * Our own source to our own destination, a live guest between them.
 *
 * Three processes beside this one: the guest, the guest that waits, and the
 * destination. The guest's pages carry their own numbers, so a stale page or a
 * foreign one is found by the guest itself, and the downtime is what it saw.
 */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { readdirSync } from "node:fs";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import type { MigrationEvent } from "@multifd/engine";
import { createScratchDir, removeScratchDir } from "../peers/index.js";

const MIB = 2 ** 20;
const PAGE = 4096;
const multifd = fileURLToPath(new URL("../../../packages/cli/dist/main.js", import.meta.url));

/** The last event of a demo bears what only the demo knows. */
type DemoEvent = MigrationEvent & { readonly verifiedPages?: number };
type Demo = { readonly exitCode: number; readonly events: readonly DemoEvent[]; readonly stderr: string };

/** Where a demo keeps its sockets. */
let scratch = "";

/** Runs `multifd demo --json` to its end. */
async function demo(...words: readonly string[]): Promise<Demo> {
  const env = { ...process.env, TMPDIR: scratch };
  const child = spawn(process.execPath, [multifd, "demo", "--json", ...words], {
    stdio: ["ignore", "pipe", "pipe"],
    env,
  });
  const events: DemoEvent[] = [];
  let stderr = "";
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    stderr += text;
  });
  createInterface({ input: child.stdout }).on("line", (line) => events.push(JSON.parse(line) as DemoEvent));
  const exitCode = await new Promise<number>((resolve, reject) => {
    child.once("error", reject);
    child.once("close", (code) => resolve(code ?? -1));
  });
  return { exitCode, events, stderr };
}

/** What holds of every migration that came to its end. */
function assertMoved({ exitCode, events, stderr }: Demo, ramBytes: number) {
  const last = events.at(-1);
  assert.ok(last?.event === "completed" && exitCode === 0, `exit ${exitCode}: ${JSON.stringify(last)} ${stderr}`);
  assert.equal(events.filter(({ event }) => event === "completed" || event === "failed").length, 1);
  assert.deepEqual([last.ramBytes, last.verifiedPages, last.acknowledged], [ramBytes, ramBytes / PAGE, true]);
  assert.equal(events.filter(({ event }) => event === "round").length, last.rounds);
  assert.ok(last.normalPages + last.zeroPages >= ramBytes / PAGE, "every page crossed at least once");
  assert.ok(last.downtimeMs !== null && last.downtimeMs > 0 && last.downtimeMs <= last.totalMs);
  return last;
}

describe("a live guest, from our source to our destination", () => {
  before(() => {
    scratch = createScratchDir("disk");
  });
  after(() => removeScratchDir(scratch));

  for (const [rate, compression, channels, transport] of [
    ["0", "none", 1, "unix"],
    ["0", "zlib", 2, "tcp"],
    ["0", "zstd", 2, "unix"],
    ["100M", "none", 2, "tcp"],
    ["100M", "zlib", 2, "unix"],
    ["100M", "zstd", 8, "tcp"],
    ["1G", "none", 8, "unix"],
    ["1G", "zlib", 2, "tcp"],
    ["1G", "zstd", 2, "unix"],
    ["1G", "none", 1, "tcp"],
    ["0", "lz4", 1, "tcp"],
    ["1G", "lz4", 8, "unix"],
    ["0", "auto", 2, "unix"],
    ["1G", "auto", 8, "tcp"],
  ] as const) {
    it(`arrives whole and runs on: ${rate}B/s dirtied, ${compression}, ${channels} channels, ${transport}`, async () => {
      const words = ["--ram-bytes", "96M", "--rate", rate, "--compression", compression];
      const ran = await demo(...words, "--channels", String(channels), "--transport", transport);
      const result = assertMoved(ran, 96 * MIB);
      if (rate !== "0") assert.ok(result.rounds >= 2, "a guest that writes is sent again, paused");
      const crossed = (result.normalPages + result.zeroPages) * PAGE;
      if (compression === "none") assert.ok(result.wireBytes > result.normalPages * PAGE);
      else if (compression !== "auto") assert.ok(result.wireBytes < crossed, "compression pays");
    });
  }

  it("sends a still guest's pages once, zero pages without contents", async () => {
    const result = assertMoved(await demo("--ram-bytes", "64M", "--rate", "0", "--channels", "2"), 64 * MIB);
    assert.equal(result.normalPages + result.zeroPages, (64 * MIB) / PAGE);
    assert.ok(result.zeroPages > 0);
    const perPacket = 1344 / 128;
    assert.ok(result.wireBytes < result.normalPages * PAGE + 2 * perPacket * (result.normalPages + result.zeroPages));
  });

  it("stops a guest that outruns a slow link at the round limit, and moves it nevertheless", async () => {
    const words = ["--ram-bytes", "32M", "--working-set", "16M", "--rate", "1G", "--max-bandwidth", "100M"];
    const ran = await demo(...words, "--downtime-limit", "1");
    const result = assertMoved(ran, 32 * MIB);
    const switchover = ran.events.find(({ event }) => event === "switchover");
    assert.ok(switchover?.event === "switchover" && switchover.expectedDowntimeMs > 1, "it was forced");
    assert.equal(result.rounds, switchover.round);
    assert.ok(result.rounds >= 3);
  });

  it("leaves no socket behind", () => {
    assert.deepEqual(readdirSync(scratch), []);
  });
});
