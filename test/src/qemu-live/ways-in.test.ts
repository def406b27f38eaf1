/** `multifd qemu migrate` of QEMUs that take more than a plain attach: filtered ones, and disks past the page cache. */
import assert from "node:assert/strict";
import { execFile, execFileSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { assertSameBytes, createScratchDir, removeScratchDir, waitForSweep } from "../peers/index.js";
import { LiveVms } from "./live-vms.js";

const run = promisify(execFile);
const MULTIFD = fileURLToPath(new URL("../../../packages/cli/dist/main.js", import.meta.url));
const kernel = fileURLToPath(new URL(".", import.meta.resolve("@multifd/kernel/package.json")));
const library = join(kernel, "build/multifd-track.so");

describe("a live guest of a QEMU that is not simply attached to", () => {
  let vms: LiveVms;
  let disks: string;
  beforeEach(() => {
    vms = new LiveVms();
    disks = createScratchDir("disk");
  });
  afterEach(async () => {
    await vms.close();
    removeScratchDir(disks);
  });

  it("moves from a QEMU under a seccomp filter, by the preload library", async () => {
    const first = await vms.start("11.1", {
      env: { LD_PRELOAD: library, MULTIFD_TRACK: vms.path("ram.0") },
      extraArgs: ["-sandbox", "on"],
    });
    const second = await vms.start("11.1");
    await waitForSweep(first.ram, 2);
    await vms.pass(first, second, ["--channels", "2"], ["--then", "pause"]);
    assertSameBytes(first.ram, second.ram);
    const left = vms.check(second);
    await second.qemu.execute("cont");
    await vms.assertGoesOn(second, left);
  });

  it("moves by the preload library where nobody may be traced, and twice", async () => {
    execFileSync("make", ["--silent", "without-pidfd-getfd"], { cwd: kernel });
    const preload = (name: string) => ({ env: { LD_PRELOAD: library, MULTIFD_TRACK: vms.path(name) } });
    const first = await vms.start("7.2", preload("ram.0"));
    const second = await vms.start("7.2", preload("ram.1"));
    const third = await vms.start("7.2");
    await waitForSweep(first.ram, 2);
    for (const [from, to] of [
      [first, second],
      [second, third],
    ] as const) {
      const receiving = await vms.incoming(to, []);
      const words = [...["qemu", "migrate", "--qmp", from.qmp], "--to", `unix:${vms.path("link")}`, ...["--json"]];
      const patience = ["--downtime-limit", "2000"];
      const sent = await run(join(kernel, "build/test/without-pidfd-getfd"), [
        process.execPath,
        MULTIFD,
        ...words,
        ...patience,
      ]);
      assert.match(sent.stdout, /"event":"completed"/);
      assert.equal((await receiving.outcome).status, 0);
      await waitForSweep(to.ram, vms.check(from).sweep + 1);
    }
    await vms.assertGoesOn(third, vms.check(second));
  });

  it("is not tracked where nobody may be traced and the preload library has not its RAM", async () => {
    execFileSync("make", ["--silent", "without-pidfd-getfd"], { cwd: kernel });
    const first = await vms.start("7.2", { env: { LD_PRELOAD: library, MULTIFD_TRACK: vms.path("elsewhere") } });
    await waitForSweep(first.ram, 1);
    const words = ["qemu", "migrate", "--qmp", first.qmp, "--to", `unix:${vms.path("nobody")}`, "--json"];
    await assert.rejects(
      run(join(kernel, "build/test/without-pidfd-getfd"), [process.execPath, MULTIFD, ...words]),
      (failure: { stdout: string }) => {
        assert.match(failure.stdout, /"PTRACE_DENIED".*MULTIFD_TRACK names all of the guest's RAM files/);
        return true;
      },
    );
    assert.equal(await first.qemu.runState(), "running");
  });

  it("is stopped for each harvest, and no longer, while its disk is read past the page cache", async () => {
    const disk = (name: string) => {
      const path = join(disks, name);
      writeFileSync(path, Buffer.alloc(2 ** 20));
      return ["-drive", `file=${path},if=none,id=d,format=raw,cache=none`, "-device", "virtio-blk,drive=d"];
    };
    const first = await vms.start("7.2", { extraArgs: disk("first") });
    const second = await vms.start("11.1", { extraArgs: disk("second") });
    const seen: string[] = [];
    const watch = async () => {
      for await (const { event } of first.qemu.qmp.events()) if (/^(STOP|RESUME)$/.test(event)) seen.push(event);
    };
    void watch();
    await waitForSweep(first.ram, 2);
    await vms.pass(first, second, ["--channels", "2"], ["--then", "pause"]);
    assertSameBytes(first.ram, second.ram);
    // Once to begin with and once a round, each let go on; the last is the switchover's.
    assert.match(seen.join(" "), /^(STOP RESUME ){2,}STOP$/);
    const left = vms.check(second);
    await second.qemu.execute("cont");
    await vms.assertGoesOn(second, left);
  });
});
