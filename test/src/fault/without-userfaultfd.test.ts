/** A machine whose container refuses userfaultfd: what needs it says so, the rest works. */
import assert from "node:assert/strict";
import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { sendAll } from "../e2e/sender.js";
import { assertSameBytes, createScratchDir, mixedImage, removeScratchDir } from "../peers/index.js";

const run = promisify(execFile);
const MULTIFD = fileURLToPath(new URL("../../../packages/cli/dist/main.js", import.meta.url));
const kernel = fileURLToPath(new URL(".", import.meta.resolve("@multifd/kernel/package.json")));
const WITHOUT = join(kernel, "build/test/without-userfaultfd");

describe("multifd where userfaultfd is refused", function () {
  this.timeout(20_000);
  let dir: string;
  before(() => run("make", ["--silent", "without-userfaultfd"], { cwd: kernel }));
  beforeEach(() => {
    dir = createScratchDir();
  });
  afterEach(() => removeScratchDir(dir));

  it("names the missing feature and the remedy to who wants to migrate a live guest", async () => {
    const words = ["migrate", "--json", "--guest", `unix:${join(dir, "guest")}`, "--to", `unix:${join(dir, "to")}`];
    await assert.rejects(run(WITHOUT, [process.execPath, MULTIFD, ...words]), (failure: { stdout: string }) => {
      const last = JSON.parse(failure.stdout.trim().split("\n").at(-1)!) as { code: string; message: string };
      assert.equal(last.code, "TRACKING_MISSING");
      assert.match(last.message, /userfaultfd: EPERM; run as root, or set vm\.unprivileged_userfaultfd=1/);
      return true;
    });
  });

  it("receives RAM all the same, by writes into the file", async () => {
    const [image, received] = [join(dir, "image"), join(dir, "received")];
    mixedImage(image, 32 * 2 ** 20, 5);
    const address = `unix:${join(dir, "socket")}`;
    const words = ["receive", "--json", "--listen", address, "--ram", `pc.ram=${received}`];
    const receiver = spawn(WITHOUT, [process.execPath, MULTIFD, ...words], { stdio: ["ignore", "pipe", "inherit"] });
    const ended = once(receiver, "exit");
    try {
      await once(receiver.stdout, "data"); // it listens
      await sendAll(["--ram", `pc.ram=${image}`, "--to", address]);
      assert.deepEqual(await ended, [0, null]);
      assertSameBytes(image, received);
    } finally {
      receiver.kill("SIGKILL");
    }
  });
});
