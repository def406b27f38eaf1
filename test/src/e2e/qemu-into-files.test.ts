/** A real QEMU migrates into our receiver: every method, transport and number of channels, byte for byte. */
import assert from "node:assert/strict";
import { rmSync } from "node:fs";
import { join } from "node:path";
import { formatAddress } from "@multifd/channel";
import type { QemuCompression } from "@multifd/protocol";
import {
  assertSameBytes,
  bootGuestSector,
  checkBootGuest,
  createScratchDir,
  mixedImage,
  QemuProcess,
  type QemuVersion,
  removeScratchDir,
  sixteenMegabytes,
  waitForProgress,
  waitForSweep,
  zeroImage,
} from "../peers/index.js";
import { startReceiver } from "./receiver.js";

const MIB = 2 ** 20;
const versions: readonly QemuVersion[] = ["7.2", "11.1"];
const methods: readonly QemuCompression[] = ["none", "zlib", "zstd"];

for (const version of versions) {
  describe(`QEMU ${version} migrating into files`, () => {
    let dir: string;
    let vms: QemuProcess[] = [];
    const path = (name: string) => join(dir, name);
    const start = async (options: Omit<Parameters<typeof QemuProcess.start>[0], "version">) => {
      const vm = await QemuProcess.start({ version, ...options });
      vms.push(vm);
      return vm;
    };

    before(() => {
      dir = createScratchDir();
      mixedImage(path("source"), 256 * MIB, 7);
    });
    after(() => removeScratchDir(dir));
    afterEach(async () => {
      await Promise.all(vms.map((vm) => vm.stop()));
      vms = [];
    });

    for (const compression of methods) {
      for (const transport of ["unix", "tcp"]) {
        for (const channels of [1, 2, 4, 8]) {
          it(`brings a paused guest over: ${compression}, ${transport}, ${channels} channels`, async () => {
            const listen = transport === "unix" ? `unix:${path("socket")}` : "tcp:127.0.0.1:0";
            const receiver = await startReceiver({
              listen,
              channels,
              compression,
              ram: { "pc.ram": path("received") },
            });
            const memory = [{ id: "pc.ram", path: path("source"), bytes: 256 * MIB }];
            const source = await start({ memory, paused: true });
            await source.setMigration({ channels, compression });
            await source.migrateTo(formatAddress(receiver.address));
            const outcome = await source.waitMigration();
            assert.equal(outcome.status, "completed", outcome.error ?? "");
            const result = await receiver.result;
            assert.equal(result.acknowledged, true);
            assertSameBytes(path("source"), path("received"));
            rmSync(path("received"));
          });
        }
      }
    }

    it("brings several RAM blocks over, of sizes that are no multiple of a packet", async () => {
      const bytes = { m0: 33 * MIB + 64 * 1024, m1: 16 * MIB + 24 * 1024 };
      mixedImage(path("m0"), bytes.m0, 1);
      mixedImage(path("m1"), bytes.m1, 2);
      const source = await start({
        memory: [
          { id: "m0", path: path("m0"), bytes: bytes.m0 },
          { id: "m1", path: path("m1"), bytes: bytes.m1 },
        ],
        extraArgs: ["-device", "VGA"],
        paused: true,
      });
      const receiver = await startReceiver({
        listen: `unix:${path("socket")}`,
        channels: 2,
        compression: "zstd",
        ram: { m0: path("m0.received"), m1: path("m1.received") },
        devices: path("devices"),
      });
      await source.setMigration({ channels: 2, compression: "zstd" });
      await source.migrateTo(formatAddress(receiver.address));
      assert.equal((await source.waitMigration()).status, "completed");
      const result = await receiver.result;
      assert.ok(result.ramBytes > bytes.m0 + bytes.m1 + 16 * MIB, "the VGA's own RAM is among the blocks");
      assertSameBytes(path("m0"), path("m0.received"));
      assertSameBytes(path("m1"), path("m1.received"));
    });

    it("gives a running guest whose RAM equals the source's stopped RAM, and which a QEMU can go on with", async () => {
      const bytes = 32 * MIB;
      zeroImage(path("live"), bytes);
      zeroImage(path("live.received"), bytes);
      const bootSector = bootGuestSector(sixteenMegabytes);
      const source = await start({ memory: [{ id: "pc.ram", path: path("live"), bytes }], bootSector });
      await waitForSweep(path("live"), 1);
      const receiver = await startReceiver({
        listen: `unix:${path("socket")}`,
        channels: 2,
        compression: "none",
        ram: { "pc.ram": path("live.received") },
        devices: path("live.devices"),
      });
      await source.setMigration({ channels: 2 });
      await source.migrateTo(formatAddress(receiver.address));
      assert.equal((await source.waitMigration()).status, "completed");
      await receiver.result;
      assertSameBytes(path("live"), path("live.received"));
      const left = checkBootGuest(path("live.received"), sixteenMegabytes);

      const heir = await start({
        memory: [{ id: "pc.ram", path: path("live.received"), bytes }],
        bootSector,
        incoming: "defer",
      });
      await heir.listen(`exec:cat ${path("live.devices")}`);
      await waitForSweep(path("live.received"), left.sweep + 1);
      await waitForProgress(path("live.received"));
      await heir.execute("stop");
      assert.ok(checkBootGuest(path("live.received"), sixteenMegabytes).sweep > left.sweep);
    });
  });
}
