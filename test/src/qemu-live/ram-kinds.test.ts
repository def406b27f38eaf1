/**
 * `multifd qemu migrate` of RAM that is not all written, and of RAM on huge pages.
 *
 * What a guest never touched, and what a balloon gave back, is a hole in the source's file; it costs neither the wire nor memory
 * at either end. The suite reserves its huge pages and mounts a hugetlbfs of its own, which only root may; it gives both back.
 */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import {
  closeSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { hugePageBytes, punchFile } from "@multifd/native";
import {
  assertSameBytes,
  countNonZeroPages,
  createScratchDir,
  type QemuVersion,
  removeScratchDir,
  waitForSweep,
} from "../peers/index.js";
import { LiveVms } from "./live-vms.js";

const MIB = 2 ** 20;
const PAGE = 4096;
const versions: readonly (readonly [QemuVersion, QemuVersion])[] = [
  ["7.2", "7.2"],
  ["7.2", "11.1"],
];
/** What a file takes of memory. */
const takenBytes = (path: string) => statSync(path).blocks * 512;

for (const [from, to] of versions) {
  describe(`a live guest's RAM, QEMU ${from} to ${to}`, () => {
    let vms: LiveVms;
    beforeEach(() => {
      vms = new LiveVms();
    });
    afterEach(() => vms.close());

    it("has holes at the destination where the guest never wrote, and where a balloon gave pages back", async () => {
      const memory = (name: string) => [
        { id: "m0", path: vms.path(`${name}.m0`), bytes: 33 * MIB },
        { id: "m1", path: vms.path(`${name}.m1`), bytes: 32 * MIB },
      ];
      const first = await vms.start(from, { memory: memory("first") });
      await waitForSweep(first.ram, 1);
      // The guest leaves its second node alone: half of it was written once, and half of that given back.
      const node = openSync(vms.path("first.m1"), "r+");
      writeSync(node, randomBytes(16 * MIB), 0, 16 * MIB, 0);
      punchFile(node, 4 * MIB, 8 * MIB); // as QEMU's balloon does it
      closeSync(node);
      const taken = takenBytes(vms.path("first.m1"));
      assert.ok(taken < 9 * MIB, `${taken} bytes, of which the firmware's are few`);
      const second = await vms.start(to, { memory: memory("second") });
      const before = takenBytes(first.ram);
      await vms.pass(first, second, ["--channels", "2"], ["--then", "pause"]);
      for (const name of ["m0", "m1"]) assertSameBytes(vms.path(`first.${name}`), vms.path(`second.${name}`));
      // In the first node a page may have been written, sent, and made zero again.
      assert.ok(takenBytes(second.ram) <= takenBytes(first.ram), "more than at the source");
      const written = countNonZeroPages(vms.path("first.m1")) * PAGE;
      assert.ok(takenBytes(vms.path("second.m1")) <= written, "zero pages take memory");
      assert.equal(takenBytes(vms.path("first.m1")), taken, "reading holes fills them");
      assert.ok(takenBytes(first.ram) <= before + 16 * MIB, "reading holes fills them");
      const left = vms.check(second);
      await second.qemu.execute("cont");
      await vms.assertGoesOn(second, left);
    });
  });
}

describe("a live guest's RAM on 2 MiB huge pages (needs root, hugetlbfs and 128 MiB of memory in huge pages)", () => {
  const RESERVED = "/proc/sys/vm/nr_hugepages";
  let dir: string;
  let reserved: string;
  let vms: LiveVms;
  const huge = (name: string) => `${dir}/huge/${name}`;
  before(() => {
    dir = createScratchDir("disk");
    reserved = readFileSync(RESERVED, "utf8");
    writeFileSync(RESERVED, String(Number(reserved) + 64));
    mkdirSync(huge(""));
    execFileSync("mount", ["-t", "hugetlbfs", "-o", "pagesize=2M", "multifd-test", huge("")]);
  });
  beforeEach(() => {
    vms = new LiveVms();
  });
  afterEach(async () => {
    await vms.close();
    for (const name of readdirSync(huge(""))) rmSync(huge(name));
  });
  after(() => {
    try {
      execFileSync("umount", [huge("")]);
    } finally {
      writeFileSync(RESERVED, reserved);
      removeScratchDir(dir);
    }
  });
  const start = (version: QemuVersion, name: string) =>
    vms.start(version, { memory: [{ id: "pc.ram", path: huge(name), bytes: 32 * MIB }] });

  for (const [from, to] of [
    ["7.2", "7.2"],
    ["11.1", "11.1"],
    ["7.2", "11.1"],
  ] as const) {
    it(`arrives whole, and the guest runs on: QEMU ${from} to ${to}`, async () => {
      const first = await start(from, "first");
      await waitForSweep(first.ram, 1);
      const file = openSync(first.ram, "r");
      assert.equal(hugePageBytes(file), 2 * MIB);
      closeSync(file);
      const second = await start(to, "second");
      await vms.pass(first, second, ["--channels", "2", "--compression", "zstd"], ["--then", "pause"]);
      assertSameBytes(first.ram, second.ram);
      const left = vms.check(second);
      await second.qemu.execute("cont");
      await vms.assertGoesOn(second, left);
    });
  }

  it("arrives in a plain file, and from there on huge pages again", async () => {
    const first = await start("7.2", "first");
    await waitForSweep(first.ram, 1);
    const second = await vms.start("7.2");
    await vms.pass(first, second, ["--channels", "1"]);
    await vms.assertGoesOn(second, vms.check(first));
    const third = await start("7.2", "third");
    await vms.pass(second, third, ["--channels", "1"]);
    await vms.assertGoesOn(third, vms.check(second));
  });
});
