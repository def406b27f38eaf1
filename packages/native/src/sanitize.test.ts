import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

const run = promisify(execFile);
const kernel = fileURLToPath(new URL(".", import.meta.resolve("@multifd/kernel/package.json")));

describe("the C library under the address and undefined-behaviour sanitizers", () => {
  it("answers every entry point, refusals and hostile payloads included, without a finding", async () => {
    await run("make", ["--silent", "sanitize"], { cwd: kernel });
    const { stdout, stderr } = await run("build/test/kernel-test-sanitized", { cwd: kernel });
    assert.deepEqual([stdout, stderr], ["", ""]);
  }).timeout(180_000);
});
