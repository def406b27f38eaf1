/** `multifd qemu save` and `restore`, with real QEMUs: a running guest goes into a file and on from it. */
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { join } from "node:path";
import {
  assertSameBytes,
  bootGuestSector,
  checkBootGuest,
  createScratchDir,
  MultifdProcess,
  QemuProcess,
  type QemuVersion,
  removeScratchDir,
  sixteenMegabytes,
  waitForProgress,
  waitForSweep,
  zeroImage,
} from "../peers/index.js";

const BYTES = 32 * 2 ** 20;
const MACHINE = "pc-i440fx-7.2";
const pairs: readonly (readonly [source: QemuVersion, destination: QemuVersion, compression: string, form: string])[] =
  [
    ["7.2", "7.2", "zstd", "compressed"],
    ["11.1", "11.1", "none", "mapped-ram"],
    ["7.2", "11.1", "zlib", "mapped-ram"],
  ];

describe("multifd qemu", () => {
  const bootSector = bootGuestSector(sixteenMegabytes);
  let dir: string;
  let vms: QemuProcess[];
  const path = (name: string) => join(dir, name);
  const socket = (name: string) => path(`${name}.qmp`);

  /** A VM with RAM in the file `name` and a QMP socket beside the test's own. */
  const start = async (name: string, version: QemuVersion, options: { incoming?: string; paused?: boolean } = {}) => {
    zeroImage(path(name), BYTES);
    const vm = await QemuProcess.start({
      version,
      machine: MACHINE,
      memory: [{ id: "pc.ram", path: path(name), bytes: BYTES }],
      bootSector,
      extraArgs: ["-qmp", `unix:${socket(name)},server=on,wait=off`],
      ...options,
    });
    vms.push(vm);
    return vm;
  };
  const startRunning = async (version: QemuVersion) => {
    const vm = await start("first", version);
    await waitForSweep(path("first"), 1);
    return vm;
  };
  const save = (...flags: readonly string[]) =>
    MultifdProcess.run("qemu", "save", "--qmp", socket("first"), "--out", path("snapshot"), ...flags);
  const restore = (...flags: readonly string[]) =>
    MultifdProcess.run("qemu", "restore", "--qmp", socket("second"), "--from", path("snapshot"), ...flags);
  const settings = async (vm: QemuProcess) => [
    await vm.execute("query-migrate-capabilities"),
    await vm.execute("query-migrate-parameters"),
  ];

  beforeEach(() => {
    dir = createScratchDir();
    vms = [];
  });
  afterEach(async () => {
    await Promise.all(vms.map((vm) => vm.stop()));
    removeScratchDir(dir);
  });

  for (const [source, destination, compression, form] of pairs) {
    it(`saves a running guest of QEMU ${source} with ${compression}, ${form}, and it runs on in ${destination}`, async () => {
      const first = await startRunning(source);
      const found = await settings(first);
      const saved = await save("--compression", compression, "--channels", "3", "--form", form);
      assert.deepEqual([saved.status, saved.last.event, saved.stderr], [0, "completed", ""], saved.last.message);
      assert.equal(await first.runState(), "postmigrate");
      assert.deepEqual(await settings(first), found);
      const left = checkBootGuest(path("first"), sixteenMegabytes);

      const second = await start("second", destination, { incoming: "defer" });
      const asStarted = await settings(second);
      const restored = await restore("--compression", compression, "--channels", "4");
      assert.deepEqual([restored.status, restored.stderr], [0, ""], restored.last.message);
      assert.equal(await second.runState(), "running");
      assert.deepEqual(await settings(second), asStarted);
      await waitForSweep(path("second"), left.sweep + 1);
      await waitForProgress(path("second"));
      await second.execute("stop");
      assert.ok(checkBootGuest(path("second"), sixteenMegabytes).sweep > left.sweep);
    });
  }

  for (const version of ["7.2", "11.1"] as const) {
    it(`lets the guest of QEMU ${version} go on when it is saved, and restores it standing still`, async () => {
      const first = await startRunning(version);
      const found = await settings(first);
      // It dirties its RAM faster than any link: a long downtime lets it be saved nevertheless.
      const saved = await save("--then", "resume", "--downtime-limit", "10000");
      assert.equal(saved.status, 0, saved.last.message);
      assert.ok((saved.last.downtimeMs ?? 0) > 0);
      assert.equal(await first.runState(), "running");
      assert.deepEqual(await settings(first), found);
      await waitForProgress(path("first"));

      const second = await start("second", version, { incoming: "defer" });
      const restored = await restore("--then", "pause");
      assert.equal(restored.status, 0, restored.last.message);
      assert.equal(await second.runState(), "paused");
      const { sweep } = checkBootGuest(path("second"), sixteenMegabytes);
      await second.execute("cont");
      await waitForSweep(path("second"), sweep + 1);
      await first.execute("stop");
      checkBootGuest(path("first"), sixteenMegabytes);
    });

    it(`ends QEMU ${version} when asked to, and starts a guest that was saved standing still`, async () => {
      const first = await startRunning(version);
      await first.execute("stop");
      const { sweep } = checkBootGuest(path("first"), sixteenMegabytes);
      const saved = await save("--then", "quit", "--form", "compressed");
      assert.equal(saved.status, 0, saved.last.message);
      assert.equal(await first.exited, "ended with status 0");

      await start("second", version, { incoming: "defer", paused: true });
      const restored = await restore("--then", "resume");
      assert.equal(restored.status, 0, restored.last.message);
      await waitForSweep(path("second"), sweep + 1);
    });
  }

  it("moves the guest over an address that is named, and restores what was saved standing still as it was", async () => {
    const first = await startRunning("11.1");
    await first.execute("stop");
    assert.equal((await save("--listen", "tcp::0")).status, 0);
    const second = await start("second", "11.1", { incoming: "defer" });
    const restored = await restore("--listen", `unix:${path("channels")}`);
    assert.equal(restored.status, 0, restored.last.message);
    assert.equal(await second.runState(), "paused");
    assertSameBytes(path("first"), path("second"));
  });

  it("gives a guest up that never lets itself be saved within the downtime, and it goes on", async () => {
    const first = await startRunning("11.1");
    const found = await settings(first);
    const saved = await save(
      "--then",
      "resume",
      "--downtime-limit",
      "1",
      "--rounds-max",
      "2",
      "--max-bandwidth",
      "50M",
    );
    assert.deepEqual([saved.status, saved.last.code], [1, "WILL_NOT_CONVERGE"], saved.last.message);
    assert.equal(existsSync(path("snapshot")), false);
    assert.deepEqual(await settings(first), found);
    await waitForProgress(path("first"));
  });
});
