/** Against the demo's guest process, which registers its RAM and writes it. */
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createConnection, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface, type Interface } from "node:readline";
import { fileURLToPath } from "node:url";
import { DirtyBitmap, describeRamBlock } from "@multifd/memory";
import { wholeBlock } from "./process-ram.js";
import { UserfaultfdTracker } from "./userfaultfd-tracker.js";

const BYTES = 16 * 2 ** 20;
const WORKING_SET = 4 * 2 ** 20;
const block = describeRamBlock("guest.ram", BYTES, 4096)!;
const program = fileURLToPath(new URL("build/multifd-guest", import.meta.resolve("@multifd/kernel/package.json")));

describe("userfaultfd tracker of a guest process (needs Linux 6.7)", () => {
  let dir: string;
  let guest: ChildProcess;
  let socket: Socket;
  let lines: Interface;
  let address = 0;
  /** Asks the guest; its answer is one JSON line. */
  const ask = async (command: string): Promise<Record<string, unknown>> => {
    const answer = once(lines, "line");
    socket.write(`${command}\n`);
    return JSON.parse((await answer)[0] as string) as Record<string, unknown>;
  };

  beforeEach(async () => {
    assert.ok(existsSync(program), `${program} has not been built`);
    dir = mkdtempSync(join(tmpdir(), "multifd-"));
    const words = ["--socket", join(dir, "s"), "--ram-bytes", String(BYTES), "--working-set", String(WORKING_SET)];
    guest = spawn(program, [...words, "--rate", "1000000000", "--exit-with-parent"], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    await once(createInterface({ input: guest.stdout! }), "line");
    socket = createConnection(join(dir, "s"));
    lines = createInterface({ input: socket });
    const described = await ask("describe");
    address = ((described as { blocks: unknown }).blocks as { address: number }[])[0]!.address;
  });
  afterEach(async () => {
    const gone = once(guest, "exit");
    guest.kill();
    await gone;
    socket.destroy();
    rmSync(dir, { recursive: true });
  });

  it("reports what the guest writes, every page of it and nothing once it stands still", async () => {
    const tracker = new UserfaultfdTracker(guest.pid!, [wholeBlock(address, block)]);
    await tracker.start([block]);
    const dirty = new DirtyBitmap(block.pageCount);
    const workingPages = WORKING_SET / 4096;
    for (let looks = 0; dirty.count() < workingPages && looks < 10_000; looks++) {
      tracker.harvest(0, dirty);
      await ask("describe"); // a round trip: the guest writes meanwhile
    }
    assert.equal(dirty.count(), workingPages, "the whole working set, and no page beside it");
    await ask("pause");
    tracker.harvest(0, dirty);
    const still = new DirtyBitmap(block.pageCount);
    tracker.harvest(0, still);
    assert.equal(still.count(), 0);
    await tracker.stop();
    await tracker.stop();
  });

  it("names a process that is gone", async () => {
    const gone = spawn("true");
    await once(gone, "exit");
    await assert.rejects(new UserfaultfdTracker(gone.pid!, [wholeBlock(address, block)]).start([block]), {
      name: "SystemError",
      code: "SYSTEM_ENOENT",
      message: new RegExp(`process ${gone.pid}`),
    });
  });

  it("refuses memory that the process has not registered", async () => {
    const maps = readFileSync("/proc/self/maps", "utf8");
    const heap = Number.parseInt(maps.split("\n").find((line) => line.includes("[heap]"))!, 16);
    const page = describeRamBlock("heap", 4096, 4096)!;
    const own = new UserfaultfdTracker(process.pid, [wholeBlock(heap, page)]);
    await assert.rejects(own.start([page]), { name: "SystemError", code: "SYSTEM_EPERM" });
    await own.stop();
  });
});
