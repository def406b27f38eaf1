/**
 * A QEMU that leaves shared RAM out of its stream (x-ignore-shared), taken in by `multifd receive --ignore-shared`:
 * its RAM file stays where it is, and another QEMU goes on from it with what came.
 */
import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import {
  bootGuestSector,
  checkBootGuest,
  createScratchDir,
  MultifdProcess,
  QemuProcess,
  type QemuVersion,
  removeScratchDir,
  sixteenMegabytes,
  waitForSweep,
  zeroImage,
} from "../peers/index.js";

const BYTES = 32 * 2 ** 20;
const MACHINE = "pc-i440fx-7.2";
const bootSector = bootGuestSector(sixteenMegabytes);

describe("a QEMU that leaves its shared RAM out of the stream", () => {
  let dir: string;
  let vms: QemuProcess[];
  const path = (name: string) => join(dir, name);
  const start = async (version: QemuVersion, options: Partial<Parameters<typeof QemuProcess.start>[0]> = {}) => {
    const memory = [{ id: "pc.ram", path: path("ram"), bytes: BYTES }];
    const vm = await QemuProcess.start({ version, machine: MACHINE, memory, bootSector, ...options });
    vms.push(vm);
    return vm;
  };
  const receive = async (...flags: readonly string[]) => {
    const command = new MultifdProcess("receive", "--listen", `unix:${path("in")}`, "--devices", path("dev"), ...flags);
    await command.waitFor(({ event }) => event === "listening");
    return command;
  };

  beforeEach(() => {
    dir = createScratchDir();
    vms = [];
    zeroImage(path("ram"), BYTES);
  });
  afterEach(async () => {
    await Promise.all(vms.map((vm) => vm.stop()));
    removeScratchDir(dir);
  });

  for (const [from, to] of [
    ["7.2", "11.1"],
    ["11.1", "7.2"],
  ] as const) {
    it(`goes on from its own RAM file and the device part that was received: ${from} to ${to}`, async () => {
      const first = await start(from);
      await waitForSweep(path("ram"), 1);
      const command = await receive("--ignore-shared", "--ram", `pc.ram=${path("ram")}`);
      await first.setMigration({ channels: 2, capabilities: { "x-ignore-shared": true } });
      await first.migrateTo(`unix:${path("in")}`);
      const { last, events } = await command.outcome;
      assert.equal(last.event, "completed", last.message);
      assert.ok((last.wireBytes ?? 0) < 2 ** 21, `${last.wireBytes} bytes came: no RAM was due`);
      assert.ok(events.length > 0);
      const left = checkBootGuest(path("ram"), sixteenMegabytes);
      await first.stop();

      await start(to, { incoming: `exec:cat ${path("dev")}` });
      await waitForSweep(path("ram"), left.sweep + 2);
      await vms.at(-1)!.execute("stop");
      assert.ok(checkBootGuest(path("ram"), sixteenMegabytes).sweep > left.sweep);
    });
  }

  it("is refused where the source sends that RAM, and its file stays as it is", async () => {
    writeFileSync(path("other"), Buffer.alloc(BYTES, 0x5a));
    const vm = await start("11.1", { paused: true });
    const command = await receive("--ignore-shared", "--ram", `pc.ram=${path("other")}`);
    await vm.setMigration({ channels: 2 });
    await vm.migrateTo(`unix:${path("in")}`);
    const { last } = await command.outcome;
    assert.deepEqual([last.event, last.code], ["failed", "CAPABILITY"], last.message);
    assert.ok(readFileSync(path("other")).every((byte) => byte === 0x5a));
  });

  it("is refused where a block that is named as shared is sent, and where one is named that it has not", async () => {
    const vm = await start("11.1", { paused: true });
    for (const [block, bytes, code] of [
      ["pc.bios", 256 * 1024, "RAM_BLOCK_SHARED"],
      ["pc.ran", BYTES, "RAM_BLOCK_UNKNOWN"],
    ] as const) {
      writeFileSync(path("shared"), Buffer.alloc(bytes));
      const command = await receive("--ignore-shared", "--ram", `${block}=${path("shared")}`);
      await vm.setMigration({ channels: 2, capabilities: { "x-ignore-shared": true } });
      await vm.migrateTo(`unix:${path("in")}`);
      const { last } = await command.outcome;
      assert.deepEqual([last.event, last.code], ["failed", code], last.message);
      await vm.waitMigration();
    }
  });
});
