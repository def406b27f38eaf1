import assert from "node:assert/strict";
import { existsSync, statSync } from "node:fs";
import { join } from "node:path";
import { bootGuestSector, checkBootGuest, sixteenMegabytes, waitForProgress, waitForSweep } from "./boot-guest.js";
import type { QemuVersion } from "./qemu-binary.js";
import type { QemuOptions } from "./qemu-command-line.js";
import { QemuProcess } from "./qemu-process.js";
import { assertSameBytes } from "./ram-compare.js";
import { mixedImage, zeroImage } from "./ram-image.js";
import { createScratchDir, removeScratchDir } from "./scratch-dir.js";

const BYTES = 32 * 2 ** 20;
const versions: readonly QemuVersion[] = ["7.2", "11.1"];

for (const version of versions) {
  describe(`QEMU ${version} as a peer`, () => {
    let dir: string;
    let vms: QemuProcess[];
    const ram = (name: string) => ({ id: "pc.ram", path: join(dir, name), bytes: BYTES });
    const start = async (options: Omit<QemuOptions, "version">) => {
      const vm = await QemuProcess.start({ version, ...options });
      vms.push(vm);
      return vm;
    };

    beforeEach(() => {
      dir = createScratchDir();
      vms = [];
    });
    afterEach(async () => {
      await Promise.all(vms.map((vm) => vm.stop()));
      removeScratchDir(dir);
    });

    for (const machine of ["pc", "q35"]) {
      it(`leaves a prepared RAM file as it is while a ${machine} is paused`, async () => {
        mixedImage(join(dir, "prepared"), BYTES, 1);
        mixedImage(ram("source").path, BYTES, 1);
        const vm = await start({ machine, memory: [ram("source")], paused: true });
        assert.equal(await vm.runState(), "prelaunch");
        await vm.stop();
        assertSameBytes(ram("source").path, join(dir, "prepared"));
      });

      it(`migrates a running ${machine} that counts on at the destination`, async () => {
        const guest = sixteenMegabytes;
        const bootSector = bootGuestSector(guest);
        zeroImage(ram("destination").path, BYTES);
        const source = await start({ machine, memory: [ram("source")], bootSector });
        await waitForSweep(ram("source").path, 1);
        const destination = await start({ machine, memory: [ram("destination")], bootSector, incoming: "defer" });
        const address = `unix:${join(dir, "migration.sock")}`;
        await destination.setMigration({ channels: 2 });
        await destination.listen(address);
        await source.setMigration({ channels: 2 });
        await source.migrateTo(address);
        const outcomes = await Promise.all([source.waitMigration(), destination.waitMigration()]);
        assert.deepEqual([outcomes[0].status, outcomes[1].status], ["completed", "completed"]);
        const left = checkBootGuest(ram("source").path, guest);
        await waitForSweep(ram("destination").path, left.sweep + 1);
        await waitForProgress(ram("destination").path);
        await destination.execute("stop");
        assert.ok(checkBootGuest(ram("destination").path, guest).sweep > left.sweep);
      });
    }

    it("brings a paused guest's RAM over byte for byte, compressed", async () => {
      mixedImage(ram("source").path, BYTES, 2);
      zeroImage(ram("destination").path, BYTES);
      const source = await start({ memory: [ram("source")], paused: true });
      const destination = await start({ memory: [ram("destination")], paused: true, incoming: "defer" });
      const address = `unix:${join(dir, "migration.sock")}`;
      for (const vm of [destination, source]) await vm.setMigration({ channels: 3, compression: "zstd", level: 1 });
      await destination.listen(address);
      await source.migrateTo(address);
      assert.equal((await source.waitMigration()).status, "completed");
      assert.equal((await destination.waitMigration()).status, "completed");
      await Promise.all([source.stop(), destination.stop()]);
      assertSameBytes(ram("source").path, ram("destination").path);
    });

    it("keeps several RAM files apart, each as one RAM block of its own name", async () => {
      const memory = [
        { ...ram("low"), id: "m0" },
        { ...ram("high"), id: "m1", bytes: BYTES + 8192 },
      ];
      const vm = await start({ memory, paused: true });
      const found = (await vm.execute("query-memdev")) as { id: string; size: number }[];
      const sizes = found.map(({ id, size }) => [id, size]).sort();
      assert.deepEqual(sizes, [
        ["m0", BYTES],
        ["m1", BYTES + 8192],
      ]);
      assert.deepEqual([statSync(ram("low").path).size, statSync(ram("high").path).size], [BYTES, BYTES + 8192]);
    });

    it("shows what QEMU wrote when it does not start", async () => {
      await assert.rejects(
        start({ memory: [ram("source")], extraArgs: ["-nonsense"] }),
        new RegExp(`QEMU ${version}, start: QEMU ended with status 1; stderr: .*-nonsense: invalid option`),
      );
    });

    it("tells how QEMU ended when a command finds it gone", async () => {
      const vm = await start({ memory: [ram("source")], paused: true });
      process.kill(vm.pid, "SIGKILL");
      await assert.rejects(vm.execute("query-status"), /query-status: .*QEMU ended by SIGKILL/);
    });

    it("leaves neither process nor directory behind", async () => {
      const vm = await start({ memory: [ram("source")], paused: true });
      await vm.stop();
      assert.throws(() => process.kill(vm.pid, 0), { code: "ESRCH" });
      assert.equal(existsSync(vm.dir), false);
    });
  });
}
