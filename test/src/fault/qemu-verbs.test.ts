/** `multifd qemu save` and `restore` when something is wrong: named before RAM moves, and undone when it comes later. */
import assert from "node:assert/strict";
import { existsSync, readdirSync, writeFileSync } from "node:fs";
import { createConnection } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  bootGuestSector,
  createScratchDir,
  MultifdProcess,
  QemuProcess,
  type QemuVersion,
  type RamFile,
  removeScratchDir,
  sixteenMegabytes,
  waitForProgress,
  waitForSweep,
  zeroImage,
} from "../peers/index.js";
import { mountSmallDisk, unmountSmallDisk } from "./small-disk.js";

const BYTES = 32 * 2 ** 20;
const MACHINE = "pc-i440fx-7.2";
const versions: readonly QemuVersion[] = ["7.2", "11.1"];
const bootSector = bootGuestSector(sixteenMegabytes);

let dir: string;
let vms: QemuProcess[] = [];
const path = (name: string) => join(dir, name);
const socket = (name: string) => path(`${name}.qmp`);

type Options = Partial<Parameters<typeof QemuProcess.start>[0]> & { readonly version: QemuVersion };

async function start(name: string, options: Options): Promise<QemuProcess> {
  const memory = options.memory ?? [ramFile("pc.ram", path(name))];
  for (const { path: file, bytes } of memory) zeroImage(file, bytes);
  const extraArgs = ["-qmp", `unix:${socket(name)},server=on,wait=off`, ...(options.extraArgs ?? [])];
  const vm = await QemuProcess.start({ machine: MACHINE, ...options, memory, extraArgs });
  vms.push(vm);
  return vm;
}

function ramFile(id: string, file: string, bytes = BYTES): RamFile {
  return { id, path: file, bytes };
}

function save(name: string, out: string, ...flags: readonly string[]): MultifdProcess {
  return new MultifdProcess("qemu", "save", "--qmp", socket(name), "--out", path(out), ...flags);
}

function restore(name: string, from: string, ...flags: readonly string[]): MultifdProcess {
  return new MultifdProcess("qemu", "restore", "--qmp", socket(name), "--from", path(from), ...flags);
}

/** The command has to fail with that code. @returns Its message. */
async function failure(command: MultifdProcess, code: string): Promise<string> {
  const { status, last } = await command.outcome;
  assert.deepEqual([status, last.event, last.code], [1, "failed", code], last.message);
  return last.message ?? "";
}

async function settings(vm: QemuProcess): Promise<readonly unknown[]> {
  return [await vm.execute("query-migrate-capabilities"), await vm.execute("query-migrate-parameters")];
}

/** Has a suite's commands make their temporary directories where nobody else does. */
function useOwnTemporaries(): void {
  const outer = process.env["TMPDIR"];
  before(() => {
    process.env["TMPDIR"] = createScratchDir("disk");
  });
  after(() => {
    removeScratchDir(tmpdir());
    if (outer === undefined) delete process.env["TMPDIR"];
    else process.env["TMPDIR"] = outer;
  });
}

/** Directories of ours in which QEMU and a command meet. */
function meetingPlaces(): readonly string[] {
  return readdirSync(tmpdir()).filter((name) => existsSync(join(tmpdir(), name, "channels")));
}

async function stopAll(): Promise<void> {
  await Promise.all(vms.map((vm) => vm.stop()));
  vms = [];
}

for (const version of versions) {
  describe(`multifd qemu save, QEMU ${version} with a running guest`, () => {
    useOwnTemporaries();
    let vm: QemuProcess;
    let found: readonly unknown[];
    before(async () => {
      dir = createScratchDir();
      vm = await start("vm", { version, bootSector });
      await waitForSweep(path("vm"), 1);
      // Somebody's own settings, some of which are in our way.
      await vm.execute("migrate-set-capabilities", {
        capabilities: ["xbzrle", "auto-converge", "pause-before-switchover"].map((capability) => ({
          capability,
          state: true,
        })),
      });
      await vm.execute("migrate-set-parameters", { "max-bandwidth": 12345678, "multifd-channels": 7 });
      found = await settings(vm);
    });
    after(async () => {
      await stopAll();
      removeScratchDir(dir);
    });
    afterEach(async () => {
      assert.equal(await vm.runState(), "running");
      assert.deepEqual(await settings(vm), found);
      assert.deepEqual(
        readdirSync(dir).filter((name) => name.startsWith("snapshot")),
        [],
      );
      assert.deepEqual(meetingPlaces(), []);
      await waitForProgress(path("vm"));
    });

    for (const name of ["SIGINT", "SIGTERM"] as const) {
      it(`is cancelled by ${name} in the middle: the guest runs on with its settings as they were`, async () => {
        const command = save("vm", "snapshot", "--then", "resume", "--max-bandwidth", "4M");
        await command.waitFor(({ event, wireBytes }) => event === "progress" && (wireBytes ?? 0) > 0);
        command.signal(name);
        await failure(command, "CANCELLED");
      });
    }

    it("is cancelled as soon as it is connected", async () => {
      const command = save("vm", "snapshot", "--then", "resume");
      await command.waitFor(({ event }) => event === "connected");
      command.signal("SIGINT");
      await failure(command, "CANCELLED");
    });

    it("fails when the disk is full, and the guest runs on", async () => {
      const disk = mountSmallDisk(4 * 2 ** 20);
      try {
        const out = join(disk, "snapshot");
        const command = new MultifdProcess("qemu", "save", "--qmp", socket("vm"), "--out", out);
        await failure(command, "SYSTEM_ENOSPC");
        assert.match((await command.outcome).stderr, /warning: .* free, the guest /);
        assert.deepEqual(readdirSync(disk), []);
      } finally {
        unmountSmallDisk(disk);
      }
    });

    it("names an address that QEMU cannot reach", async () => {
      const message = await failure(
        save("vm", "snapshot", "--listen", `unix:${path("nowhere")}/socket`),
        "SYSTEM_ENOENT",
      );
      assert.match(message, /nowhere/);
    });

    it("refuses to write over a file", async () => {
      writeFileSync(path("taken"), "precious");
      assert.match(await failure(save("vm", "taken"), "OUT_EXISTS"), /taken exists/);
    });

    it("names a migration that is under way", async () => {
      await vm.execute("migrate-set-parameters", { "max-bandwidth": 1 });
      await vm.execute("migrate", { uri: `exec:cat > ${path("other")}` });
      try {
        assert.match(await failure(save("vm", "snapshot"), "MIGRATION_UNDER_WAY"), /migrated already/);
      } finally {
        await vm.execute("migrate_cancel");
        await vm.execute("migrate-set-parameters", { "max-bandwidth": 12345678 });
      }
    });

    it("names whoever else has QEMU's QMP socket, and a socket that is none", async () => {
      const other = createConnection(socket("vm"));
      await new Promise((resolve) => other.once("data", resolve));
      try {
        assert.match(await failure(save("vm", "snapshot"), "QMP_TIMEOUT"), /one at a time/);
      } finally {
        other.destroy();
      }
      assert.match(await failure(save("none", "snapshot"), "QMP_CLOSED"), /start QEMU with -qmp/);
    }).timeout(40_000);
  });

  describe(`multifd qemu save, QEMU ${version}`, () => {
    useOwnTemporaries();
    beforeEach(() => {
      dir = createScratchDir();
    });
    afterEach(async () => {
      await stopAll();
      removeScratchDir(dir);
    });

    it("tells QEMU's reason for a VM that cannot migrate", async () => {
      const extraArgs = ["-object", "memory-backend-ram,id=shared,size=1M", "-device", "ivshmem-plain,memdev=shared"];
      await start("vm", { version, paused: true, extraArgs });
      assert.match(await failure(save("vm", "snapshot"), "MIGRATION_BLOCKED"), /ivshmem/);
    });

    it("names a VM that stands since it was saved, and one that waits for its guest", async () => {
      await start("vm", { version, paused: true });
      assert.equal((await save("vm", "snapshot").outcome).status, 0);
      assert.match(await failure(save("vm", "again"), "RUN_STATE"), /postmigrate/);
      await start("waiting", { version, incoming: "defer" });
      assert.match(await failure(save("waiting", "again"), "RUN_STATE"), /-incoming/);
    });

    it("names a monitor that is no QMP socket", async () => {
      await start("vm", { version, paused: true, extraArgs: ["-monitor", `unix:${socket("hmp")},server=on,wait=off`] });
      assert.match(await failure(save("hmp", "snapshot"), "QMP_MALFORMED"), /is this a QMP socket/);
    });

    it("says so when QEMU is killed in the middle, and leaves no file", async () => {
      const vm = await start("vm", { version, bootSector });
      await waitForSweep(path("vm"), 1);
      const command = save("vm", "snapshot", "--then", "resume", "--max-bandwidth", "4M");
      await command.waitFor(({ event, wireBytes }) => event === "progress" && (wireBytes ?? 0) > 0);
      process.kill(vm.pid, "SIGKILL");
      await failure(command, "QMP_CLOSED");
      assert.deepEqual(
        readdirSync(dir).filter((name) => name.startsWith("snapshot")),
        [],
      );
      assert.deepEqual(meetingPlaces(), []);
    });
  });

  describe(`multifd qemu restore into QEMU ${version}`, () => {
    useOwnTemporaries();
    beforeEach(async () => {
      dir = createScratchDir();
      await start("source", { version, bootSector });
      await waitForSweep(path("source"), 1);
      const saved = await save("source", "snapshot", "--then", "quit").outcome;
      assert.equal(saved.status, 0, saved.last.message);
    });
    afterEach(async () => {
      await stopAll();
      removeScratchDir(dir);
    });

    it("names every mismatch before anything is sent, and that QEMU goes on waiting", async () => {
      const wrong: readonly (readonly [string, Partial<Options>, string, RegExp])[] = [
        ["machine", { machine: "pc-q35-7.2" }, "MACHINE_TYPE_MISMATCH", /start it with -machine pc-i440fx-7\.2/],
        ["size", { memory: [ramFile("pc.ram", path("size"), 2 * BYTES)] }, "RAM_SIZE_MISMATCH", /67108864 in this/],
        ["name", { memory: [ramFile("ram0", path("name"))] }, "RAM_BLOCK_MISSING", /its "ram0" is as long/],
      ];
      for (const [name, options, code, message] of wrong) {
        const vm = await start(name, { version, incoming: "defer", ...options });
        const found = await settings(vm);
        assert.match(await failure(restore(name, "snapshot"), code), message);
        assert.equal(await vm.runState(), "inmigrate");
        assert.deepEqual([await vm.execute("query-migrate"), await settings(vm)], [{}, found]);
      }
    });

    it("names a QEMU that has its guest, and one whose channels can no longer be set", async () => {
      await start("running", { version, paused: true });
      assert.match(await failure(restore("running", "snapshot"), "RUN_STATE"), /-incoming defer/);
      await start("listening", { version, incoming: `unix:${path("incoming")}` });
      assert.match(await failure(restore("listening", "snapshot"), "ALREADY_LISTENING"), /-incoming defer/);
    });

    it("tells what QEMU tells when a device is missing there", async () => {
      await start("usb", { version, machine: `${MACHINE},usb=on`, paused: true });
      assert.equal((await save("usb", "with-usb").outcome).status, 0);
      await start("bare", { version, incoming: "defer" });
      // One that exits with its incoming migration, as 7.2 does, tells the reason on its own stderr only.
      const [code, words] =
        version === "7.2" ? ["QEMU_ENDED", /its own log/] : ["QEMU_MIGRATION_FAILED", /uhci|load of migration failed/];
      assert.match(await failure(restore("bare", "with-usb"), code as string), words as RegExp);
    });

    it("says so when QEMU is killed in the middle", async () => {
      const vm = await start("second", { version, incoming: "defer", bootSector });
      const command = restore("second", "snapshot", "--max-bandwidth", "4M");
      await command.waitFor(({ event, wireBytes }) => event === "progress" && (wireBytes ?? 0) > 0);
      process.kill(vm.pid, "SIGKILL");
      await failure(command, "QEMU_ENDED");
      assert.deepEqual(meetingPlaces(), []);
    });

    it("is cancelled in the middle, and the guest does not run", async () => {
      const vm = await start("second", { version, incoming: "defer", bootSector });
      const command = restore("second", "snapshot", "--max-bandwidth", "4M");
      await command.waitFor(({ event, wireBytes }) => event === "progress" && (wireBytes ?? 0) > 0);
      command.signal("SIGINT");
      await failure(command, "CANCELLED");
      const state = await Promise.race([vm.exited, vm.runState().catch(() => vm.exited)]);
      assert.notEqual(state, "running");
    });
  });
}

describe("multifd qemu restore into a QEMU that is too old", () => {
  before(() => {
    dir = createScratchDir();
  });
  after(async () => {
    await stopAll();
    removeScratchDir(dir);
  });

  it("says that it has no such machine", async () => {
    await start("new", { version: "11.1", machine: "pc", paused: true });
    assert.equal((await save("new", "snapshot").outcome).status, 0);
    await start("old", { version: "7.2", machine: "pc", incoming: "defer" });
    assert.match(await failure(restore("old", "snapshot"), "MACHINE_TYPE_MISMATCH"), /no such machine: it is too old/);
  });
});
