/**
 * A balloon in a real guest, migrated live by `multifd qemu migrate`: what the guest has given back is a hole in the RAM file at
 * the source, costs nothing on the way, and is a hole at the destination, until the guest takes it again.
 *
 * Slow, for a kernel boots under TCG; run by `npm run test:slow`.
 */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { closeSync, openSync } from "node:fs";
import { seekData, seekHole } from "@multifd/native";
import { assertSameBytes, type CommandOutcome, MultifdProcess, type QemuVersion } from "../peers/index.js";
import { BOOT_MS, DEBIAN_RAM_BYTES, type DebianVm, DebianVms, requireDebianGuest } from "./debian-vms.js";

const MIB = 2 ** 20;
const PAGE_BYTES = 4096;
const devices = ["virtio-balloon-pci"];
const LEFT_BYTES = 128 * MIB;
const BALLOON_MS = 120_000;
const FILL_MIB = 96;
const FILL_MD5 = createHash("md5")
  .update(Buffer.alloc(FILL_MIB * MIB, "multifd\n"))
  .digest("hex");
const pairs: readonly (readonly [QemuVersion, QemuVersion])[] = [
  ["7.2", "7.2"],
  ["11.1", "11.1"],
  ["7.2", "11.1"],
];

/** Has the guest write into much of its RAM: a file on a file system in memory, of which it has none this large. */
async function fill({ console }: DebianVm): Promise<void> {
  await console.run(
    `mkdir -p /fill; mount -t tmpfs -o size=${2 * FILL_MIB}m fill /fill; yes multifd | head -c ${MIB} >/tmp/part`,
  );
  await console.run(`for i in $(seq ${FILL_MIB}); do cat /tmp/part; done >/fill/file`);
  assert.equal(await console.run("md5sum </fill/file"), `${FILL_MD5}  -`);
}

/** Has the guest give RAM back, or take it again, and waits until it has. */
async function balloonTo({ vm }: DebianVm, bytes: number): Promise<void> {
  await vm.execute("balloon", { value: bytes });
  await vm.qmp.waitForEvent("BALLOON_CHANGE", ({ actual }) => actual === bytes, BALLOON_MS);
  assert.deepEqual(await vm.execute("query-balloon"), { actual: bytes });
}

const memTotalKib = async ({ console }: DebianVm) =>
  Number(await console.run("grep MemTotal /proc/meminfo | tr -dc 0-9"));

/** What a file has no memory for, in bytes from `from` to `to`. */
type Hole = { readonly from: number; readonly to: number };

function holesOf(path: string): readonly Hole[] {
  const holes: Hole[] = [];
  const file = openSync(path, "r");
  try {
    for (let from = seekHole(file, 0); from < DEBIAN_RAM_BYTES; ) {
      const to = seekData(file, from) ?? DEBIAN_RAM_BYTES;
      holes.push({ from, to });
      from = to < DEBIAN_RAM_BYTES ? seekHole(file, to) : to;
    }
  } finally {
    closeSync(file);
  }
  return holes;
}

const sumBytes = (holes: readonly Hole[]) => holes.reduce((sum, { from, to }) => sum + to - from, 0);

/** @throws {AssertionError} naming the first hole that has been filled. */
function assertHoles(path: string, holes: readonly Hole[]): void {
  const file = openSync(path, "r");
  try {
    for (const { from, to } of holes) {
      const data = seekData(file, from);
      assert.ok(
        data === null || data >= to,
        `${path}: data at ${data}, in what has to be a hole from ${from} to ${to}`,
      );
    }
  } finally {
    closeSync(file);
  }
}

describe("a Debian guest with a balloon, migrated by our data plane", function () {
  this.timeout(2 * BOOT_MS);
  let vms: DebianVms;
  before(requireDebianGuest);
  beforeEach(() => {
    vms = new DebianVms();
  });
  afterEach(() => vms.close());

  for (const [from, to] of pairs) {
    it(`has holes at the destination where the balloon is, and gets its RAM back there: QEMU ${from} to ${to}`, async () => {
      const ram = (name: string) => ({ id: "pc.ram", path: vms.path(`${name}.ram`), bytes: DEBIAN_RAM_BYTES });
      const first = await vms.boot(from, { ram: ram("first"), devices });
      const whole = await memTotalKib(first);
      // What goes into the balloon has held something.
      await fill(first);
      await first.console.run("umount /fill");
      const filled = holesOf(ram("first").path);
      assert.ok(sumBytes(filled) < LEFT_BYTES, `${sumBytes(filled)} bytes were never written`);
      await balloonTo(first, LEFT_BYTES);
      const ballooned = holesOf(ram("first").path);
      assert.ok(sumBytes(ballooned) >= DEBIAN_RAM_BYTES - LEFT_BYTES, `${sumBytes(ballooned)} bytes were given back`);

      const second = await vms.start("second", to, { ram: ram("second"), devices, incoming: "defer" });
      const sent = await migrate(first, second);
      assertSameBytes(ram("first").path, ram("second").path);
      const left = holesOf(ram("first").path);
      assertHoles(ram("second").path, left);
      const resent = sent.events.reduce((sum, { event, round = 0, dirtyPages = 0 }) => {
        return event === "round" && round > 1 ? sum + dirtyPages : sum;
      }, 0);
      const due = (DEBIAN_RAM_BYTES - sumBytes(left)) / PAGE_BYTES + resent;
      assert.ok((sent.last.normalPages ?? due + 1) <= due, `${sent.last.normalPages} pages were sent, ${due} were due`);

      await second.vm.execute("cont");
      await vms.checkLives(second.console, first.counted);
      assert.deepEqual(await second.vm.execute("query-balloon"), { actual: LEFT_BYTES });
      await balloonTo(second, DEBIAN_RAM_BYTES);
      assert.equal(await memTotalKib(second), whole);
      await fill(second);
      assert.ok(sumBytes(holesOf(ram("second").path)) < LEFT_BYTES, "it has its RAM back");
    });
  }

  /** @returns what the source said; the guest stands still in both then. */
  const migrate = async (first: DebianVm, second: DebianVm): Promise<CommandOutcome> => {
    const link = `unix:${vms.path("link")}`;
    const receiving = new MultifdProcess(
      ...["qemu", "incoming", "--qmp", second.qmp, "--listen", link, "--then", "pause"],
    );
    await receiving.waitFor(({ event }) => event === "listening");
    const sent = await MultifdProcess.run(
      ...["qemu", "migrate", "--qmp", first.qmp, "--to", link, "--downtime-limit", "2000"],
    );
    const received = await receiving.outcome;
    assert.equal(sent.status, 0, `${sent.last.message}; ${sent.stderr}`);
    assert.equal(received.status, 0, `${received.last.message}; ${received.stderr}`);
    return sent;
  };
});
