/**
 * A real operating system, saved and restored, and relayed live: Debian's kernel with virtio-net, virtio-blk and virtio-rng.
 *
 * Slow, for a kernel boots under TCG; run by `npm run test:slow`, with what test/peers/debian-guest.sh makes.
 */
import assert from "node:assert/strict";
import { MultifdProcess, type QemuVersion } from "../peers/index.js";
import { BOOT_MS, DebianVms, requireDebianGuest } from "./debian-vms.js";

const pairs: readonly (readonly [source: QemuVersion, destination: QemuVersion, form: string])[] = [
  ["7.2", "7.2", "compressed"],
  ["11.1", "11.1", "mapped-ram"],
  ["7.2", "11.1", "compressed"],
];

describe("a Debian guest", function () {
  this.timeout(2 * BOOT_MS);
  let vms: DebianVms;
  before(requireDebianGuest);
  beforeEach(() => {
    vms = new DebianVms();
  });
  afterEach(() => vms.close());

  for (const [source, destination, form] of pairs) {
    it(`still answers on its console when restored, QEMU ${source} to ${destination}, ${form}`, async () => {
      const first = await vms.boot(source);
      const saved = await MultifdProcess.run(
        ...["qemu", "save", "--qmp", first.qmp, "--out", vms.path("snapshot"), "--then", "quit", "--form", form],
      );
      assert.equal(saved.status, 0, saved.last.message);
      await first.vm.exited;

      const second = await vms.start("second", destination, { incoming: "defer" });
      const restored = await MultifdProcess.run(
        ...["qemu", "restore", "--qmp", second.qmp, "--from", vms.path("snapshot")],
      );
      assert.equal(restored.status, 0, restored.last.message);
      await vms.checkLives(second.console, first.counted);
    });

    it(`still answers on its console when relayed live, QEMU ${source} to ${destination}`, async () => {
      const first = await vms.boot(source);
      const second = await vms.start("second", destination, { incoming: "defer" });
      await second.vm.setMigration({ channels: 3, compression: "zstd" });
      await second.vm.listen(`unix:${vms.path("out")}`);
      const relay = new MultifdProcess(
        ...["relay", "--listen", `unix:${vms.path("in")}`, "--to", `unix:${vms.path("out")}`],
        ...["--to-channels", "3", "--to-compression", "zstd"],
      );
      await relay.waitFor(({ event }) => event === "listening");
      await first.vm.setMigration({ channels: 2 });
      await first.vm.migrateTo(`unix:${vms.path("in")}`);
      const relayed = await relay.outcome;
      assert.equal(relayed.status, 0, relayed.last.message);
      assert.equal((await first.vm.waitMigration()).status, "completed");
      await vms.checkLives(second.console, first.counted);
    });
  }
});
