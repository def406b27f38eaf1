/** What real QEMUs save of virtio devices: decoded, found in order against guest RAM, and encoded to the same bytes. */
import assert from "node:assert/strict";
import { closeSync, openSync, readSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import {
  checkVirtioDevice,
  decodeVirtioDevice,
  encodeVirtioDevice,
  featureNames,
  type GuestMemory,
  guestFeatures,
  joinBackendState,
  statusNames,
  type VirtioDevice,
  virtioRings,
} from "@multifd/protocol";
import {
  BackEndProcess,
  bootGuestSector,
  createScratchDir,
  QemuProcess,
  type QemuVersion,
  removeScratchDir,
  sixteenMegabytes,
  startScriptedBackEnd,
  storageDaemon,
  virtiofsd,
  waitForProgress,
  zeroImage,
} from "../peers/index.js";
import { deviceSections } from "./device-sections.js";

const RAM_BYTES = 64 * 2 ** 20;
const versions: readonly QemuVersion[] = ["7.2", "11.1"];
const flags = (text: string) => text.trim().split(/\s+/);

/** Every way that a device may be offered: to old guests, to new ones, to both; with other rings; on PCI Express. */
const PAUSED_DEVICES = flags(`
  -device pcie-root-port,id=rp0,chassis=1 -device pcie-root-port,id=rp1,chassis=2 -device pcie-root-port,id=rp2,chassis=3
  -netdev hubport,id=n0,hubid=0 -netdev hubport,id=n1,hubid=1 -netdev hubport,id=n2,hubid=2
  -device virtio-net-pci,netdev=n0,romfile= -device virtio-net-pci,netdev=n1,bus=rp0,mq=on,vectors=6,romfile=
  -device virtio-net-pci,netdev=n2,disable-modern=on,disable-legacy=off,romfile=
  -blockdev driver=null-co,node-name=b0,read-zeroes=on -device virtio-blk-pci,drive=b0,num-queues=4
  -blockdev driver=null-co,node-name=b1,read-zeroes=on -device virtio-blk-pci,drive=b1,bus=rp1,packed=on,queue-size=512
  -device virtio-rng-pci -device virtio-rng-pci,disable-modern=on,disable-legacy=off -device virtio-rng-pci,bus=rp2,packed=on
  -device virtio-rng-pci,disable-legacy=on,vectors=0
  -chardev null,id=c0 -chardev null,id=c1 -device virtio-serial-pci,max_ports=40 -device virtconsole,chardev=c0
  -device virtserialport,chardev=c1,nr=33 -device virtio-scsi-pci -device virtio-balloon-pci -device virtio-keyboard-pci`);

for (const version of versions) {
  describe(`virtio devices of QEMU ${version}`, () => {
    let dir: string;
    const closers: (() => unknown)[] = [];
    const path = (name: string) => join(dir, name);
    beforeEach(() => {
      dir = createScratchDir();
      zeroImage(path("ram"), RAM_BYTES);
    });
    afterEach(async () => {
      for (const close of closers.splice(0).reverse()) await close();
      removeScratchDir(dir);
    });

    const start = async (machine: string, extraArgs: readonly string[], paused = false) => {
      const memory = [{ id: "pc.ram", path: path("ram"), bytes: RAM_BYTES }];
      const vm = await QemuProcess.start({ version, machine, memory, extraArgs, paused });
      closers.push(() => vm.stop());
      return vm;
    };

    const bootDisk = () => {
      writeFileSync(path("disk"), bootGuestSector(sixteenMegabytes));
      truncateSync(path("disk"), 2 ** 20);
      return path("disk");
    };

    /** The guest's RAM, which has no hole below 3 GiB. */
    const guestMemory = (): GuestMemory => {
      const file = openSync(path("ram"), "r");
      closers.push(() => closeSync(file));
      return {
        read(address, bytes) {
          if (address + BigInt(bytes) > BigInt(RAM_BYTES)) return null;
          const into = Buffer.alloc(bytes);
          assert.equal(readSync(file, into, 0, bytes, Number(address)), bytes);
          return into;
        },
      };
    };

    /** Stops the VM and decodes what it saves of every virtio device, by the section's name; none may be strange to us, none may change. */
    const savedDevices = async (vm: QemuProcess) => {
      await vm.execute("stop");
      await vm.setMigration({ channels: 0, capabilities: { "return-path": false } });
      await vm.migrateTo(`exec:cat >${path("stream")}`);
      const outcome = await vm.waitMigration();
      assert.equal(outcome.status, "completed", outcome.error ?? "");
      const memory = guestMemory();
      const devices = new Map<string, VirtioDevice>();
      for (const { name, version: sectionVersion, bytes } of await deviceSections(path("stream"))) {
        if (!/\/(virtio|vhost)-/.test(name)) continue;
        const device = decodeVirtioDevice(name, bytes, sectionVersion);
        assert.ok(device !== null, `${name} is strange to us`);
        assert.deepEqual(Buffer.from(encodeVirtioDevice(device)), Buffer.from(bytes), name);
        checkVirtioDevice(device, { memory });
        devices.set(name, device);
      }
      return [...devices.values()];
    };

    it("are decoded and encoded to the same bytes, however they are offered", async () => {
      const devices = await savedDevices(await start("q35", PAUSED_DEVICES, true));
      const names = devices.map(({ type }) => type.name).sort();
      const due = [
        "balloon",
        "blk",
        "blk",
        "console",
        "input",
        "net",
        "net",
        "net",
        "rng",
        "rng",
        "rng",
        "rng",
        "scsi",
      ];
      assert.deepEqual(
        names,
        due.map((name) => `virtio-${name}`),
      );
    });

    for (const [kind, machine, options] of [
      ["modern", "q35", "num-queues=2"],
      ["legacy", "pc", "disable-modern=on,disable-legacy=off"],
    ] as const)
      it(`tell a ${kind} disk's rings as they lie in the RAM of the guest that booted from it`, async () => {
        const vm = await start(machine, [
          ...flags(`-blockdev driver=file,node-name=f,filename=${bootDisk()}`),
          ...flags(`-device virtio-blk-pci,drive=f,bootindex=1,${options}`),
        ]);
        await waitForProgress(path("ram"));
        const [disk] = await savedDevices(vm);
        const [ring] = virtioRings(disk!);
        const indexInRam = Buffer.from(guestMemory().read(ring!.memory!.available.address + 2n, 2)!);
        assert.equal(ring!.lastAvailableIndex, indexInRam.readUInt16LE());
        assert.ok(ring!.lastAvailableIndex > 0, "the firmware has read nothing through the ring");
        assert.ok(statusNames(disk!.status).includes("DRIVER_OK"));
        assert.equal(featureNames(disk!.type.id, guestFeatures(disk!)).includes("VERSION_1"), kind === "modern");
      });

    it("keep the request on which a disk failed", async () => {
      const vm = await start("q35", [
        ...flags(`-blockdev driver=file,node-name=f,filename=${bootDisk()}`),
        ...flags("-blockdev driver=blkdebug,node-name=d,image=f,inject-error.0.event=read_aio,inject-error.0.errno=5"),
        ...flags("-blockdev driver=raw,node-name=r,file=d"),
        ...flags("-device virtio-blk-pci,drive=r,num-queues=2,packed=on,rerror=stop,bootindex=1"),
      ]);
      // The firmware may have met the error before the monitor was ours to listen at.
      while ((await vm.runState()) !== "io-error") await vm.qmp.waitForEvent("STOP", () => true, 30_000);
      const [disk] = await savedDevices(vm);
      assert.ok(disk!.part.kind === "block");
      assert.deepEqual(
        disk!.part.requests.map(({ queue, descriptors }) => ({ queue, descriptors })),
        [{ queue: 0, descriptors: 1 }],
      );
    });

    it("keep the queue pairs of a network card on a vhost-user back-end, behind a root port", async () => {
      const backEnd = await startScriptedBackEnd(path("net.sock"), 4);
      closers.push(() => backEnd.close());
      const vm = await start(
        "q35",
        flags(`-chardev socket,id=c,path=${path("net.sock")} -netdev vhost-user,id=n,chardev=c,queues=4
          -device pcie-root-port,id=rp,chassis=1 -device virtio-net-pci,netdev=n,mq=on,vectors=10,bus=rp,romfile=`),
        true,
      );
      const [card] = await savedDevices(vm);
      assert.ok(card!.part.kind === "net");
      assert.deepEqual(card!.part.queuePairs, { max: 4, current: 1, txWaiting: [] });
      assert.equal(card!.pci.configurationSpace.length, 4096);
    });

    it("tell the rings of a vhost-user disk as its back-end left them", async () => {
      const of = version === "7.2" ? "system" : "forky";
      const backEnd = new BackEndProcess(storageDaemon(path("blk.sock"), bootDisk(), of));
      closers.push(() => backEnd.stop());
      (await backEnd.connect(path("blk.sock"))).close();
      const vm = await start("q35", [
        ...flags(`-chardev socket,id=c,path=${path("blk.sock")} -device vhost-user-blk-pci,chardev=c,bootindex=1`),
      ]);
      await waitForProgress(path("ram"));
      const [disk] = await savedDevices(vm);
      assert.deepEqual([disk!.type.name, disk!.subsections.started], ["vhost-user-blk", true]);
      assert.ok(disk!.queues[0]!.lastAvailableIndex > 0);
    });
  });
}

describe("virtio devices of QEMU 11.1", () => {
  it("carry what virtiofsd saved of itself", async () => {
    const dir = createScratchDir();
    const memory = [{ id: "pc.ram", path: join(dir, "ram"), bytes: RAM_BYTES }];
    zeroImage(memory[0]!.path, RAM_BYTES);
    const socket = join(dir, "fs.sock");
    const backEnd = new BackEndProcess(virtiofsd(socket, dir));
    let vm: QemuProcess | null = null;
    try {
      await backEnd.says(/Waiting for vhost-user socket connection/);
      const extraArgs = flags(`-chardev socket,id=c,path=${socket} -device vhost-user-fs-pci,chardev=c,tag=t`);
      vm = await QemuProcess.start({ version: "11.1", machine: "q35", memory, extraArgs, paused: true });
      await vm.setMigration({ channels: 0, capabilities: { "return-path": false } });
      await vm.migrateTo(`exec:cat >${join(dir, "stream")}`);
      const outcome = await vm.waitMigration();
      assert.equal(outcome.status, "completed", outcome.error ?? "");
      const fs = (await deviceSections(join(dir, "stream"))).find(({ name }) => name.endsWith("/vhost-user-fs"));
      const device = decodeVirtioDevice(fs!.name, fs!.bytes, fs!.version)!;
      assert.deepEqual(Buffer.from(encodeVirtioDevice(device)), Buffer.from(fs!.bytes));
      const state = joinBackendState(device.sectionSubsections.backendState!);
      assert.equal(Buffer.from(state).toString("hex"), "01000200000000000000", "what it saves with nothing open");
    } finally {
      await vm?.stop();
      await backEnd.stop();
      removeScratchDir(dir);
    }
  });
});
