/** Dirty tracking of real QEMUs that know nothing of it: attached to while they run. */
import assert from "node:assert/strict";
import { attachTracking } from "@multifd/engine";
import { type QemuVersion, waitForProgress } from "../peers/index.js";
import { checkHarvest, noTraces, startTrackedQemu, type TrackedQemu, tracesOf } from "./tracked-qemu.js";

const versions: readonly QemuVersion[] = ["7.2", "11.1"];

for (const version of versions) {
  describe(`attaching to a running QEMU ${version}`, function () {
    this.timeout(60_000);
    let qemu: TrackedQemu;
    beforeEach(async () => {
      qemu = await startTrackedQemu(version);
    });
    afterEach(() => qemu.close());

    it("reports exactly the pages that its guest writes, and goes without a trace", async () => {
      const { vm, ram, path } = qemu;
      const { tracker, way, detach } = await attachTracking({ pid: vm.pid, ram });
      assert.equal(way, "attached");
      assert.deepEqual(tracesOf(vm.pid, ram[0]!.descriptor), { ...noTraces, registered: 1 });
      await tracker.start([qemu.block]);
      await waitForProgress(path);
      await checkHarvest(qemu, tracker);
      await checkHarvest(qemu, tracker);
      await tracker.stop();
      await detach();
      assert.deepEqual(tracesOf(vm.pid, ram[0]!.descriptor), noTraces);
      await waitForProgress(path);
      assert.equal(await vm.runState(), "running");
    });

    it("is begun and ended a hundred times under a guest that writes all the while", async () => {
      const { vm, ram, path } = qemu;
      for (let round = 0; round < 100; round++) {
        const { tracker } = await attachTracking({ pid: vm.pid, ram });
        await tracker.start([qemu.block]);
        await tracker.stop();
      }
      assert.deepEqual(tracesOf(vm.pid, ram[0]!.descriptor), noTraces);
      await waitForProgress(path);
      const { tracker } = await attachTracking({ pid: vm.pid, ram });
      await tracker.start([qemu.block]);
      await checkHarvest(qemu, tracker);
      await tracker.stop();
    });
  });
}
