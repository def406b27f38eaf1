/** Guests with devices in other processes: `qemu migrate` and `qemu snapshot` refuse them by name, and they go on. */
import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import {
  BackEndProcess,
  type BackEndProgram,
  MultifdProcess,
  passt,
  type QemuVersion,
  storageDaemon,
  virtiofsd,
  waitForProgress,
  waitForSweep,
} from "../peers/index.js";
import { LiveVms } from "./live-vms.js";

const cases: readonly (readonly [
  what: string,
  version: QemuVersion,
  named: RegExp,
  program: (vms: LiveVms, socket: string) => BackEndProgram,
  device: readonly string[],
])[] = [
  [
    "a file system of virtiofsd",
    "11.1",
    /"fs0" \(vhost-user-fs-pci\)/,
    (vms, socket) => virtiofsd(socket, vms.path("")),
    ["-device", "vhost-user-fs-pci,id=fs0,chardev=c,tag=t"],
  ],
  [
    "a disk of qemu-storage-daemon",
    "7.2",
    /"disk" \(vhost-user-blk-pci\)/,
    (vms, socket) => {
      writeFileSync(vms.path("image"), Buffer.alloc(2 ** 20));
      return storageDaemon(socket, vms.path("image"));
    },
    ["-device", "vhost-user-blk-pci,id=disk,chardev=c"],
  ],
  [
    "a network of passt",
    "11.1",
    /"n0" \(vhost-user\)/,
    (_, socket) => passt(socket),
    ["-netdev", "vhost-user,id=n0,chardev=c", "-device", "virtio-net-pci,netdev=n0,romfile="],
  ],
];

describe("a live guest with a device in another process", () => {
  for (const [what, version, named, program, device] of cases) {
    it(`is refused, and goes on: ${what}, QEMU ${version}`, async () => {
      const vms = new LiveVms();
      const socket = vms.path("back-end");
      const backEnd = new BackEndProcess(program(vms, socket));
      try {
        await backEnd.listens(socket);
        const extraArgs = ["-chardev", `socket,id=c,path=${socket}`, ...device];
        const vm = await vms.start(version, { extraArgs });
        await waitForSweep(vm.ram, 1);
        const outcomes = [
          await vms.migrate(vm, [], vms.path("nobody")).outcome,
          await MultifdProcess.run("qemu", "snapshot", "--qmp", vm.qmp, "--out", vms.path("snapshot")),
        ];
        for (const { status, last } of outcomes) {
          assert.deepEqual([status, last.code], [1, "RAM_WRITTEN_ELSEWHERE"], last.message);
          assert.match(last.message ?? "", named);
          assert.match(last.message ?? "", /only QEMU can ask for; unplug it first/);
        }
        assert.equal(await vm.qemu.runState(), "running");
        await waitForProgress(vm.ram);
      } finally {
        await vms.close();
        await backEnd.stop();
      }
    });
  }
});
