import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gunzipSync } from "node:zlib";
import { runCommandLine } from "../program.js";
import { recordingTerminal } from "../recording-terminal.js";

/** A main channel as QEMU sent it: packages/protocol/vectors/README.md says how it was recorded. */
function recorded(version: string): Buffer {
  return gunzipSync(readFileSync(new URL(`../../../protocol/vectors/${version}/main.bin.gz`, import.meta.url)));
}

describe("multifd inspect", () => {
  let directory = "";
  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), "multifd-inspect-"));
  });
  afterEach(() => {
    rmSync(directory, { recursive: true });
  });

  async function inspect(bytes: Uint8Array, ...flags: string[]) {
    const path = join(directory, "main.bin");
    writeFileSync(path, bytes);
    const terminal = recordingTerminal();
    const code = await runCommandLine(["inspect", path, ...flags], terminal);
    return { code, out: terminal.outText(), err: terminal.errText() };
  }

  it("tells machine type, RAM blocks and device sections of what QEMU 7.2 and 11.1 sent", async () => {
    for (const [version, machineType] of [
      ["qemu-7.2", /^pc-i440fx-7\.2$/],
      ["qemu-11.1", /^pc-i440fx-11\.1$/],
    ] as const) {
      const bytes = recorded(version);
      const { code, out } = await inspect(bytes, "--json");
      assert.equal(code, 0);
      const seen = JSON.parse(out);
      assert.match(seen.machineType, machineType);
      assert.equal(seen.pageBytes, 4096);
      assert.ok(seen.blocks.some((block: { name: string }) => block.name === "pc.bios"));
      const sectionBytes = seen.sections.reduce(
        (sum: number, section: { lengthBytes: number }) => sum + section.lengthBytes,
        0,
      );
      assert.ok(seen.sections.length >= 20 && sectionBytes < seen.deviceBytes);
      assert.ok(seen.sections.some((section: { name: string }) => section.name === "cpu_common"));
    }
  });

  it("prints the same as a table for people", async () => {
    const { code, out } = await inspect(recorded("qemu-7.2"));
    assert.equal(code, 0);
    assert.match(out, /^machine type {3}pc-i440fx-7\.2$/m);
    assert.match(out, /^ {2}pc\.bios +256 KiB +\d+ +\d+$/m);
    assert.match(out, /^ {2}cpu_common +0 +1 +\d+$/m);
  });

  it("fails with exit code 1 and names file and byte where the file is cut", async () => {
    const bytes = recorded("qemu-7.2");
    const { code, out, err } = await inspect(bytes.subarray(0, bytes.length - 100), "--json");
    assert.equal(code, 1);
    assert.deepEqual([JSON.parse(out).event, JSON.parse(out).code], ["failed", "STREAM_CUT"]);
    assert.match(err, /main\.bin: main channel, byte \d+/);
  });

  it("says that a file is not there", async () => {
    const terminal = recordingTerminal();
    assert.equal(await runCommandLine(["inspect", join(directory, "none")], terminal), 1);
    assert.match(terminal.errText(), /none: ENOENT/);
  });
});
