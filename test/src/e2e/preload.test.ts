/** Dirty tracking of real QEMUs by the preload library, where nobody may attach. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { attachTracking } from "@multifd/engine";
import { type QemuVersion, waitForProgress } from "../peers/index.js";
import { checkHarvest, startTrackedQemu, tracesOf } from "./tracked-qemu.js";

const library = fileURLToPath(new URL("build/multifd-track.so", import.meta.resolve("@multifd/kernel/package.json")));
const versions: readonly QemuVersion[] = ["7.2", "11.1"];

for (const version of versions) {
  describe(`the preload library in QEMU ${version}`, function () {
    this.timeout(60_000);

    it("has its RAM registered from the start, under a seccomp filter too, and is tracked again and again", async () => {
      const qemu = await startTrackedQemu(version, (dir) => ({
        env: { LD_PRELOAD: library, MULTIFD_TRACK: join(dir, "ram") },
        extraArgs: ["-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"],
      }));
      try {
        const { vm, ram, block } = qemu;
        const seen = () => tracesOf(vm.pid, ram[0]!.descriptor);
        assert.deepEqual(seen(), { tracer: 0, userfaultfds: 1, registered: 1 });
        for (let round = 0; round < 2; round++) {
          const { tracker, way } = await attachTracking({ pid: vm.pid, ram });
          assert.equal(way, "preloaded");
          await tracker.start([block]);
          await checkHarvest(qemu, tracker);
          await tracker.stop();
          assert.deepEqual(seen(), { tracer: 0, userfaultfds: 1, registered: 0 });
        }
        assert.equal(vm.stderr, "");
      } finally {
        await qemu.close();
      }
    });

    it("does nothing unless it is asked to, and only to the RAM that is named", async () => {
      for (const wanted of [{}, { MULTIFD_TRACK: "" }, { MULTIFD_TRACK: "/dev/shm/other" }]) {
        const qemu = await startTrackedQemu(version, () => ({ env: { LD_PRELOAD: library, ...wanted } }));
        try {
          const { vm, path, ram } = qemu;
          const asked = "MULTIFD_TRACK" in wanted && wanted.MULTIFD_TRACK !== "";
          assert.deepEqual(tracesOf(vm.pid, ram[0]!.descriptor), {
            tracer: 0,
            userfaultfds: asked ? 1 : 0,
            registered: 0,
          });
          await waitForProgress(path);
          assert.equal(vm.stderr, "");
        } finally {
          await qemu.close();
        }
      }
    });
  });
}
