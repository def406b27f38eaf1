/** The attach program may die, wait in vain, or meet a stopped process: the guest goes on as if nothing had been. */
import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { attachTracking } from "@multifd/engine";
import { attachToProcess, closeDescriptor } from "@multifd/native";
import { checkHarvest, noTraces, startTrackedQemu, type TrackedQemu, tracesOf } from "../e2e/tracked-qemu.js";
import { type QemuVersion, waitForProgress } from "../peers/index.js";

const kernel = fileURLToPath(new URL(".", import.meta.resolve("@multifd/kernel/package.json")));
const DYING = join(kernel, "build/test/multifd-attach-dying");
/** As native/attach/inject.c counts them. */
const STEPS = 12;
const TRIES = 3;
const versions: readonly QemuVersion[] = ["7.2", "11.1"];

function stateOf(pid: number): string {
  return /^State:\s+(\S)/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))![1]!;
}

async function reached(pid: number, states: string): Promise<void> {
  while (!states.includes(stateOf(pid))) await delay(1);
}

for (const version of versions) {
  describe(`an attach to QEMU ${version} that goes wrong`, function () {
    this.timeout(60_000);
    let qemu: TrackedQemu;
    before(async () => {
      execFileSync("make", ["--silent", "attach-dying", "never-stops"], { cwd: kernel });
      qemu = await startTrackedQemu(version);
    });
    after(() => qemu.close());
    const assertUntouched = async () => {
      const { vm, path, ram } = qemu;
      assert.equal(await vm.runState(), "running"); // its main thread is back where it was
      assert.deepEqual(tracesOf(vm.pid, ram[0]!.descriptor), noTraces);
      await waitForProgress(path);
    };

    for (let step = 1; step <= STEPS; step++) {
      it(`leaves the guest running when the program dies at step ${step}`, async () => {
        for (let attempt = 0; attempt < TRIES; attempt++) {
          process.env["MULTIFD_DIE_AT"] = String(step);
          try {
            const answer = await attachToProcess({ pid: qemu.vm.pid, timeoutMs: 5000, program: DYING });
            assert.deepEqual(answer, { ok: false, step: "ended", errno: "SIGKILL" });
          } finally {
            delete process.env["MULTIFD_DIE_AT"];
          }
          await assertUntouched();
        }
      });
    }

    it("can be followed by one that works", async () => {
      const { tracker } = await attachTracking({ pid: qemu.vm.pid, ram: qemu.ram });
      await tracker.start([qemu.block]);
      await checkHarvest(qemu, tracker);
      await tracker.stop();
      await assertUntouched();
    });

    it("is forgotten by the kernel when whoever tracks is killed", async () => {
      const { vm, path, block } = qemu;
      const script = `
        import { openSync } from "node:fs";
        import { attachTracking } from ${JSON.stringify(import.meta.resolve("@multifd/engine"))};
        const block = ${JSON.stringify(block)};
        const ram = [{ block, descriptor: openSync(${JSON.stringify(path)}, "r"), offsetBytes: 0 }];
        const { tracker } = await attachTracking({ pid: ${vm.pid}, ram });
        await tracker.start([block]);
        console.log("tracking");
        setInterval(() => {}, 1000);`;
      const owner = spawn(process.execPath, ["--input-type=module", "-e", script], {
        stdio: ["ignore", "pipe", "inherit"],
      });
      const gone = once(owner, "exit");
      await once(owner.stdout, "data");
      assert.equal(tracesOf(vm.pid, qemu.ram[0]!.descriptor).registered, 1);
      owner.kill("SIGKILL");
      await gone;
      await assertUntouched();
    });

    it("has no finding of the address and undefined-behaviour sanitizers, right or wrong", async () => {
      execFileSync("make", ["--silent", "build/test/multifd-attach-sanitized"], { cwd: kernel });
      const program = join(kernel, "build/test/multifd-attach-sanitized");
      const answer = await attachToProcess({ pid: qemu.vm.pid, timeoutMs: 10_000, program });
      assert.ok(answer.ok);
      closeDescriptor(answer.descriptor);
      const wrong = await attachToProcess({ pid: qemu.vm.pid, timeoutMs: 10_000, held: 1_000_000, program });
      assert.deepEqual(wrong, { ok: false, step: "copy", errno: "EBADF" });
      await assertUntouched();
    });

    it("does not wake a QEMU that was stopped by a signal", async () => {
      const { pid } = qemu.vm;
      process.kill(pid, "SIGSTOP");
      await reached(pid, "T");
      const answer = await attachToProcess({ pid, timeoutMs: 5000 });
      assert.ok(answer.ok);
      closeDescriptor(answer.descriptor);
      await reached(pid, "T");
      process.kill(pid, "SIGCONT");
      await assertUntouched();
    });
  });
}

describe("a process that no tracer can stop", () => {
  it("is given up after the time allowed", async () => {
    execFileSync("make", ["--silent", "never-stops"], { cwd: kernel });
    const child = spawn(join(kernel, "build/test/never-stops"), { stdio: ["ignore", "pipe", "inherit"] });
    const gone = once(child, "exit");
    try {
      await once(child.stdout, "data");
      await reached(child.pid!, "D");
      const answer = await attachToProcess({ pid: child.pid!, timeoutMs: 200 });
      assert.deepEqual(answer, { ok: false, step: "timeout", errno: "ETIMEDOUT" });
      assert.match(readFileSync(`/proc/${child.pid}/status`, "utf8"), /^TracerPid:\s+0$/m);
    } finally {
      child.kill("SIGKILL");
      await gone;
    }
  });
});
