/** What keeps a process's RAM from being tracked is named, with the remedy, and the process goes on untouched. */
import assert from "node:assert/strict";
import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { closeSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { attachTracking } from "@multifd/engine";
import { SystemError } from "@multifd/protocol";
import {
  checkHarvest,
  noTraces,
  ramSource,
  startTrackedQemu,
  type TrackedQemu,
  tracesOf,
} from "../e2e/tracked-qemu.js";
import { createScratchDir, QemuProcess, removeScratchDir, waitForProgress } from "../peers/index.js";

const MIB = 2 ** 20;
const kernel = fileURLToPath(new URL(".", import.meta.resolve("@multifd/kernel/package.json")));
/** Maps a file shared and writable, says so, and waits to be ended. */
const MAPPER =
  "import mmap,sys;f=open(sys.argv[1],'r+b');m=mmap.mmap(f.fileno(),0);print('mapped',flush=True);sys.stdin.read()";
/** Becomes the tracer of a process, says so, and waits to be ended. */
const TRACER =
  "import ctypes,sys;r=ctypes.CDLL(None).ptrace(0x4206,int(sys.argv[1]),0,0);print('traced',r,flush=True);sys.stdin.read()";

async function withProcess(words: readonly string[], body: (child: ChildProcess) => Promise<void>): Promise<void> {
  const child = spawn(words[0]!, words.slice(1), { stdio: ["pipe", "pipe", "inherit"] });
  const gone = once(child, "exit");
  try {
    await once(createInterface({ input: child.stdout! }), "line");
    await body(child);
  } finally {
    child.kill("SIGKILL");
    await gone;
  }
}

function refusal(code: string, says: RegExp) {
  return (error: unknown) => {
    assert.ok(error instanceof SystemError, String(error));
    assert.equal(error.code, code, error.message);
    assert.match(error.message, says);
    return true;
  };
}

describe("tracking of a QEMU is refused", function () {
  this.timeout(60_000);

  describe("and the guest goes on untouched", () => {
    let qemu: TrackedQemu;
    const attach = () => attachTracking({ pid: qemu.vm.pid, ram: qemu.ram });
    const assertUntouched = async () => {
      assert.deepEqual(tracesOf(qemu.vm.pid, qemu.ram[0]!.descriptor), noTraces);
      await waitForProgress(qemu.path);
      const { tracker } = await attach(); // and nothing is left that would keep the next one out
      await tracker.start([qemu.block]);
      await checkHarvest(qemu, tracker);
      await tracker.stop();
    };
    before(async () => {
      qemu = await startTrackedQemu("7.2");
    });
    after(() => qemu.close());

    it("while another process maps its RAM, unless that one's writes are seen elsewhere", async () => {
      await withProcess(["python3", "-c", MAPPER, qemu.path], async ({ pid }) => {
        await assert.rejects(
          attach(),
          refusal("RAM_WRITTEN_ELSEWHERE", new RegExp(`process ${pid} \\(python3\\).*dirty log`)),
        );
        const { tracker } = await attachTracking({ pid: qemu.vm.pid, ram: qemu.ram, trackedElsewhere: [pid!] });
        await tracker.stop();
      });
      await assertUntouched();
    });

    it("while it is traced by somebody else", async () => {
      await withProcess(["python3", "-c", TRACER, String(qemu.vm.pid)], async ({ pid }) => {
        await assert.rejects(
          attach(),
          refusal("PROCESS_ALREADY_TRACED", new RegExp(`by process ${pid} \\(python3\\)`)),
        );
      });
      await assertUntouched();
    });

    it("while it is tracked already", async () => {
      const first = await attach();
      const again = ramSource("pc.ram", qemu.path, 32 * MIB);
      try {
        const second = attachTracking({ pid: qemu.vm.pid, ram: [again] });
        await assert.rejects(second, refusal("TRACKING_BUSY", /another migration or snapshot/));
        await first.detach();
        await (await attachTracking({ pid: qemu.vm.pid, ram: [again] })).detach();
      } finally {
        closeSync(again.descriptor);
        await first.detach();
      }
      await assertUntouched();
    });

    it("where the file is not its RAM, or only part of it", async () => {
      const other = join(qemu.vm.dir, "other");
      writeFileSync(other, Buffer.alloc(MIB));
      const wrong = ramSource("pc.ram", other, MIB);
      const long = ramSource("pc.ram", qemu.path, 64 * MIB);
      const pid = qemu.vm.pid;
      try {
        await assert.rejects(attachTracking({ pid, ram: [wrong] }), refusal("RAM_NOT_MAPPED", /the right process/));
        await assert.rejects(
          attachTracking({ pid, ram: [long] }),
          refusal("RAM_PARTLY_MAPPED", /up to offset 0x2000000 of 0x4000000/),
        );
      } finally {
        closeSync(wrong.descriptor);
        closeSync(long.descriptor);
      }
      await assertUntouched();
    });

    it("by a user who may not look into it", async () => {
      const script = `
        import { attachTracking } from ${JSON.stringify(import.meta.resolve("@multifd/engine"))};
        try { await attachTracking({ pid: ${qemu.vm.pid}, ram: [] }); console.log("attached"); }
        catch (error) { console.log(error.code + ": " + error.message); }`;
      const words = ["--input-type=module", "-e", script];
      const said = execFileSync(process.execPath, words, { encoding: "utf8", uid: 65534, gid: 65534 });
      assert.match(said, /^SYSTEM_EACCES: .*run as root, or as the user who runs that process/);
      await assertUntouched();
    });
  });

  it("under a seccomp filter, with a word of the preload library", async () => {
    const qemu = await startTrackedQemu("11.1", () => ({ extraArgs: ["-sandbox", "on"] }));
    try {
      await assert.rejects(
        attachTracking({ pid: qemu.vm.pid, ram: qemu.ram }),
        refusal("PROCESS_FILTERED", /-sandbox on.*LD_PRELOAD=/),
      );
      assert.deepEqual(tracesOf(qemu.vm.pid, qemu.ram[0]!.descriptor), noTraces);
      await waitForProgress(qemu.path);
    } finally {
      await qemu.close();
    }
  });

  it("while it reads a disk past the page cache, unless such reads are held", async () => {
    const disk = join(createScratchDir("disk"), "disk");
    writeFileSync(disk, Buffer.alloc(MIB));
    const drive = `file=${disk},if=none,id=d,format=raw,cache=none`;
    const qemu = await startTrackedQemu("7.2", () => ({
      extraArgs: ["-drive", drive, "-device", "virtio-blk,drive=d"],
    }));
    try {
      const { vm, ram } = qemu;
      const refused = refusal("RAM_WRITTEN_BY_DIRECT_IO", new RegExp(`${disk}.*cache.direct=off`));
      await assert.rejects(attachTracking({ pid: vm.pid, ram }), refused);
      await (await attachTracking({ pid: vm.pid, ram, transfersHeld: true })).detach();
      assert.deepEqual(tracesOf(vm.pid, ram[0]!.descriptor), noTraces);
    } finally {
      await qemu.close();
      removeScratchDir(join(disk, ".."));
    }
  });

  it("where its RAM is private", async () => {
    const dir = createScratchDir();
    const path = join(dir, "ram");
    const backend = `memory-backend-file,id=pc.ram,size=32M,mem-path=${path},share=off`;
    const vm = await QemuProcess.start({
      version: "7.2",
      machine: "pc,memory-backend=pc.ram",
      memory: [],
      extraArgs: ["-m", "32M", "-object", backend],
    });
    const ram = ramSource("pc.ram", path, 32 * MIB);
    try {
      await assert.rejects(attachTracking({ pid: vm.pid, ram: [ram] }), refusal("RAM_NOT_SHARED", /share=on/));
    } finally {
      closeSync(ram.descriptor);
      await vm.stop();
      removeScratchDir(dir);
    }
  });

  it("when it has ended", async () => {
    const gone = spawn("true");
    await once(gone, "exit");
    await assert.rejects(
      attachTracking({ pid: gone.pid!, ram: [] }),
      refusal("PROCESS_GONE", new RegExp(`process ${gone.pid} `)),
    );
  });

  it("where userfaultfd is forbidden to us", async () => {
    execFileSync("make", ["--silent", "without-userfaultfd"], { cwd: kernel });
    const script = `
      import { attachTracking } from ${JSON.stringify(import.meta.resolve("@multifd/engine"))};
      try { await attachTracking({ pid: ${process.pid}, ram: [] }); console.log("attached"); }
      catch (error) { console.log(error.code); }`;
    const words = [process.execPath, "--input-type=module", "-e", script];
    const said = execFileSync(join(kernel, "build/test/without-userfaultfd"), words, { encoding: "utf8" });
    assert.equal(said, "TRACKING_MISSING\n");
  });
});
