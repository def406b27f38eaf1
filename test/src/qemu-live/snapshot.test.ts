/** `multifd qemu snapshot`: a running guest's file is whole, the guest hardly stands still, and a failure costs it nothing. */
import assert from "node:assert/strict";
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { mountSmallDisk, unmountSmallDisk } from "../fault/small-disk.js";
import { MultifdProcess, waitForProgress, waitForSweep } from "../peers/index.js";
import { type LiveVm, LiveVms } from "./live-vms.js";

/** The boot guest writes all its RAM faster than it can be read: it is stopped for about all of that. */
const PATIENCE = ["--downtime-limit", "5000"];
const matrix = [
  ["7.2", "7.2", "mapped-ram", 2],
  ["11.1", "11.1", "mapped-ram", 1],
  ["7.2", "11.1", "compressed", 4],
] as const;

describe("a snapshot of a live guest", function () {
  this.timeout(60_000);
  let vms: LiveVms;
  beforeEach(() => {
    vms = new LiveVms();
  });
  afterEach(() => vms.close());

  const snapshot = (vm: LiveVm, out: string, flags: readonly string[] = PATIENCE) =>
    new MultifdProcess("qemu", "snapshot", "--qmp", vm.qmp, "--out", out, ...flags);
  const settings = async ({ qemu }: LiveVm) => [
    await qemu.execute("query-migrate-capabilities"),
    await qemu.execute("query-migrate-parameters"),
  ];
  const assertUntouched = async (vm: LiveVm, found: unknown) => {
    assert.equal(await vm.qemu.runState(), "running");
    assert.deepEqual(await settings(vm), found);
    await waitForProgress(vm.ram);
    await vm.qemu.execute("stop");
    vms.check(vm);
    await vm.qemu.execute("cont");
  };

  for (const [from, to, form, channels] of matrix) {
    it(`lets it go on in QEMU ${from}, and QEMU ${to} goes on from the file: ${form}, ${channels} channels`, async () => {
      const first = await vms.start(from);
      await waitForSweep(first.ram, 2);
      const found = await settings(first);
      const out = vms.path("snapshot");
      const flags = ["--form", form, "--channels", String(channels), ...PATIENCE];
      const { status, last, stderr } = await snapshot(first, out, flags).outcome;
      assert.deepEqual([status, last.event, stderr], [0, "completed", ""], last.message);
      assert.ok((last.downtimeMs ?? 0) > 0);
      await assertUntouched(first, found);

      const second = await vms.start(to);
      const restored = await MultifdProcess.run(
        "qemu",
        "restore",
        "--qmp",
        second.qmp,
        "--from",
        out,
        "--then",
        "pause",
      );
      assert.equal(restored.status, 0, restored.last.message);
      const then = vms.check(second);
      await second.qemu.execute("cont");
      await waitForSweep(second.ram, then.sweep + 2);
      await second.qemu.execute("stop");
      vms.check(second);
    });
  }

  it("is loaded by a QEMU without us", async () => {
    const first = await vms.start("11.1");
    await waitForSweep(first.ram, 1);
    const out = vms.path("snapshot");
    assert.equal((await snapshot(first, out).outcome).status, 0);
    const second = await vms.start("11.1");
    await second.qemu.setMigration({ channels: 0, capabilities: { "mapped-ram": true, "return-path": false } });
    await second.qemu.listen(`file:${out}`);
    assert.equal((await second.qemu.waitMigration()).status, "completed");
    await waitForProgress(second.ram);
  });

  it("can be taken again and again", async () => {
    const first = await vms.start("7.2");
    await waitForSweep(first.ram, 1);
    const found = await settings(first);
    for (const name of ["one", "two", "three"]) {
      const { status, last } = await snapshot(first, vms.path(name)).outcome;
      assert.equal(status, 0, last.message);
    }
    await assertUntouched(first, found);
  });

  it("is not kept where the disk is full, and the guest goes on", async () => {
    const first = await vms.start("11.1");
    await waitForSweep(first.ram, 1);
    const found = await settings(first);
    const disk = mountSmallDisk(4 * 2 ** 20);
    try {
      const { status, last } = await snapshot(first, join(disk, "snapshot")).outcome;
      assert.deepEqual([status, last.code], [1, "SYSTEM_ENOSPC"], last.message);
      assert.deepEqual(readdirSync(disk), []);
    } finally {
      unmountSmallDisk(disk);
    }
    await assertUntouched(first, found);
  });

  for (const moment of ["connected", "round", "switchover"]) {
    it(`is not kept when it is cancelled at "${moment}", and the guest goes on`, async () => {
      const first = await vms.start("7.2");
      await waitForSweep(first.ram, 1);
      const found = await settings(first);
      const out = vms.path("snapshot");
      const command = snapshot(first, out);
      await command.waitFor(({ event }) => event === moment);
      command.signal("SIGINT");
      const { status, last } = await command.outcome;
      assert.deepEqual([status, last.code], [1, "CANCELLED"], last.message);
      assert.equal(existsSync(out), false);
      await assertUntouched(first, found);
    });
  }

  it("leaves the guest running when its process is killed in the middle of it", async () => {
    const first = await vms.start("11.1");
    await waitForSweep(first.ram, 1);
    for (const moment of ["connected", "round", "switchover"]) {
      const command = snapshot(first, vms.path(`killed at ${moment}`));
      await command.waitFor(({ event }) => event === moment);
      command.signal("SIGKILL");
      await command.outcome;
      await waitForProgress(first.ram);
      assert.equal(await first.qemu.runState(), "running");
    }
  });
});
