/** `multifd qemu migrate` of QEMUs that take more than a plain attach: filtered ones, and disks past the page cache. */
import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { assertSameBytes, createScratchDir, removeScratchDir, waitForSweep } from "../peers/index.js";
import { LiveVms } from "./live-vms.js";

const library = fileURLToPath(new URL("build/multifd-track.so", import.meta.resolve("@multifd/kernel/package.json")));

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
