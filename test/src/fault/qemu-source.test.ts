/** A real QEMU whose destination refuses in mid-stream: it says that it failed, and its guest goes on. */
import assert from "node:assert/strict";
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { formatAddress } from "@multifd/channel";
import { type ReceiverOptions, startReceiver } from "../e2e/receiver.js";
import {
  bootGuestSector,
  createScratchDir,
  QemuProcess,
  type QemuVersion,
  removeScratchDir,
  sixteenMegabytes,
  waitForProgress,
  waitForSweep,
  zeroImage,
} from "../peers/index.js";
import { ownError } from "./refusal.js";
import { mountSmallDisk, unmountSmallDisk } from "./small-disk.js";

const BYTES = 32 * 2 ** 20;
const DISK_BYTES = 4 * 2 ** 20;
const versions: readonly QemuVersion[] = ["7.2", "11.1"];

for (const version of versions) {
  describe(`QEMU ${version} migrating to a receiver that fails`, () => {
    let dir: string;
    let disk: string;
    let source: QemuProcess;
    before(async () => {
      dir = createScratchDir();
      disk = mountSmallDisk(DISK_BYTES);
      zeroImage(join(dir, "live"), BYTES);
      source = await QemuProcess.start({
        version,
        memory: [{ id: "pc.ram", path: join(dir, "live"), bytes: BYTES }],
        bootSector: bootGuestSector(sixteenMegabytes),
      });
      await waitForSweep(join(dir, "live"), 1);
    });
    after(async () => {
      await source.stop();
      unmountSmallDisk(disk);
      removeScratchDir(dir);
    });

    const failures: readonly (readonly [why: string, code: string, receiver: () => Partial<ReceiverOptions>])[] = [
      ["its disk is full", "SYSTEM_ENOSPC", () => ({ ram: { "pc.ram": join(disk, "ram") } })],
      ["it was told another compression", "MULTIFD_COMPRESSION", () => ({ compression: "zlib" })],
    ];
    for (const [why, code, receiver] of failures) {
      it(`goes on with its guest when ${why}`, async () => {
        const { address, result } = await startReceiver({
          listen: `unix:${join(dir, "socket")}`,
          channels: 2,
          compression: "none",
          ram: { "pc.ram": join(dir, "received") },
          ...receiver(),
        });
        await source.setMigration({ channels: 2 });
        await source.migrateTo(formatAddress(address));
        const refusal = await result.then(() => assert.fail("the receiver took it"), ownError);
        assert.equal(refusal.code, code);
        assert.equal((await source.waitMigration()).status, "failed");
        assert.equal(await source.runState(), "running");
        await waitForProgress(join(dir, "live"));
        assert.deepEqual([readdirSync(disk), readdirSync(dir)], [[], ["live"]]);
      });
    }

    it("migrates after it was refused again and again for its number of channels", async () => {
      const receiver = (channels: number) =>
        startReceiver({
          listen: `unix:${join(dir, "socket")}`,
          channels,
          compression: "none",
          ram: { "pc.ram": join(dir, "received") },
        });
      await source.setMigration({ channels: 5, downtimeLimitMs: 10_000 });
      // Refused at once, while it still connects, one in three 7.2 would never migrate again, and some would crash.
      for (let time = 0; time < 8; time++) {
        const { address, result } = await receiver(3);
        await source.migrateTo(formatAddress(address));
        const refusal = await result.then(() => assert.fail("the receiver took it"), ownError);
        assert.equal(refusal.code, "MULTIFD_CHANNEL_ID");
        assert.equal((await source.waitMigration()).status, "failed");
      }
      await waitForProgress(join(dir, "live"));
      const { address, result } = await receiver(5);
      await source.migrateTo(formatAddress(address));
      await result;
      assert.equal((await source.waitMigration()).status, "completed");
    }).timeout(240_000); // for slow machines: nine migrations
  });
}
