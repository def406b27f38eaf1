/** What our sender writes, read by QEMU's own receiver: a guest kept in files goes on in a QEMU. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { formatAddress, parseAddress } from "@multifd/channel";
import { runSource, StoppedRam } from "@multifd/engine";
import { QemuSourcePeer, readDeviceFile } from "@multifd/peer-qemu";
import type { Compression } from "@multifd/protocol";
import {
  bootGuestSector,
  checkBootGuest,
  createScratchDir,
  QemuProcess,
  removeScratchDir,
  sixteenMegabytes,
  waitForProgress,
  waitForSweep,
  zeroImage,
} from "../peers/index.js";
import { startReceiver } from "./receiver.js";

const BYTES = 32 * 2 ** 20;
const methods: readonly Compression[] = ["none", "zlib", "zstd"];

describe("a guest kept in files, sent on to QEMU 11.1", () => {
  const bootSector = bootGuestSector(sixteenMegabytes);
  let dir: string;
  let vms: QemuProcess[];
  const path = (name: string) => join(dir, name);
  const start = async (file: string, incoming?: string) => {
    zeroImage(path(file), BYTES);
    const memory = [{ id: "pc.ram", path: path(file), bytes: BYTES }];
    const vm = await QemuProcess.start({ version: "11.1", memory, bootSector, ...(incoming ? { incoming } : {}) });
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

  for (const compression of methods) {
    it(`runs on there, over 3 channels with ${compression}`, async () => {
      const first = await start("first");
      await waitForSweep(path("first"), 1);
      const ram = { "pc.ram": path("kept") };
      const listen = `unix:${path("in")}`;
      const receiver = await startReceiver({ listen, channels: 2, compression, ram, devices: path("devices") });
      // The guest dirties its RAM faster than QEMU compresses with zlib: without patience it would never stop.
      await first.setMigration({ channels: 2, compression, downtimeLimitMs: 10_000 });
      await first.migrateTo(formatAddress(receiver.address));
      await receiver.result;
      const left = checkBootGuest(path("kept"), sixteenMegabytes);

      const second = await start("second", "defer");
      await second.setMigration({ channels: 3, compression });
      await second.listen(`unix:${path("out")}`);
      const file = await readDeviceFile(path("devices"), new Map([["pc.ram", BYTES]]));
      const guest = StoppedRam.open(new Map([["pc.ram", path("kept")]]), file.pageBytes, file);
      try {
        const result = await runSource({
          guest,
          peer: new QemuSourcePeer({
            address: parseAddress(`unix:${path("out")}`),
            channels: 3,
            connectTimeoutMs: 5000,
          }),
          onEvent: () => {},
          compression,
          level: 1,
          devices: file.devices,
          downtimeLimitMs: 300,
          maxBandwidth: 0,
          roundsMax: 1,
          atRoundLimit: "fail",
          stallTimeoutMs: 20_000,
        });
        assert.equal(result.acknowledged, true);
      } finally {
        guest.close();
      }
      await waitForSweep(path("second"), left.sweep + 1);
      await waitForProgress(path("second"));
      await second.execute("stop");
      assert.ok(checkBootGuest(path("second"), sixteenMegabytes).sweep > left.sweep);
    });
  }
});
