/**
 * Large RAM, and RAM on huge pages: sizes and files that the small tests do not meet.
 *
 * A file on hugetlbfs takes no write(2), so its pages are placed through a mapping;
 * it is read with read(2) all the same. The suite reserves its huge pages and
 * mounts a hugetlbfs of its own, which only root may; it gives both back.
 */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { closeSync, openSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { formatAddress, parseAddress } from "@multifd/channel";
import { runSource, StoppedRam } from "@multifd/engine";
import { createMemfd, hugePageBytes, mapFile, readMemory, unmap, writeMemory } from "@multifd/native";
import { QemuSourcePeer, readDeviceFile } from "@multifd/peer-qemu";
import {
  assertSameBytes,
  bootGuestSector,
  checkBootGuest,
  createScratchDir,
  mixedImage,
  QemuProcess,
  removeScratchDir,
  sixteenMegabytes,
  waitForProgress,
  waitForSweep,
} from "../peers/index.js";
import { startReceiver } from "./receiver.js";

const MIB = 2 ** 20;
const GIB = 2 ** 30;
const HUGE_PAGE = 2 * MIB;

let dir: string;
let vms: QemuProcess[] = [];
const path = (name: string) => join(dir, name);
const start = async (options: Omit<Parameters<typeof QemuProcess.start>[0], "version">) => {
  const vm = await QemuProcess.start({ version: "11.1", ...options });
  vms.push(vm);
  return vm;
};
const stopAll = async () => {
  await Promise.all(vms.map((vm) => vm.stop()));
  vms = [];
};

describe("4 GiB of a QEMU 11.1 guest (needs 10 GiB of free memory)", () => {
  before(() => {
    dir = createScratchDir();
  });
  afterEach(stopAll);
  after(() => removeScratchDir(dir));

  it("arrive in files, byte for byte, zero pages as holes", async () => {
    mixedImage(path("source"), 4 * GIB, 11);
    const receiver = await startReceiver({
      listen: `unix:${path("socket")}`,
      channels: 2,
      compression: "zstd",
      ram: { "pc.ram": path("received") },
    });
    const source = await start({ memory: [{ id: "pc.ram", path: path("source"), bytes: 4 * GIB }], paused: true });
    await source.setMigration({ channels: 2, compression: "zstd" });
    await source.migrateTo(formatAddress(receiver.address));
    const outcome = await source.waitMigration(150_000);
    assert.equal(outcome.status, "completed", outcome.error ?? "");
    const result = await receiver.result;
    assert.ok(result.ramBytes >= 4 * GIB && result.wireBytes < 3 * GIB);
    assertSameBytes(path("source"), path("received"));
    assert.ok(statSync(path("received")).blocks * 512 < 0.7 * 4 * GIB, "zero pages take no memory");
  }).timeout(200_000);
});

describe("RAM on 2 MiB huge pages (needs root, hugetlbfs and 192 MiB of memory in huge pages)", () => {
  const RESERVED = "/proc/sys/vm/nr_hugepages";
  const bytes = 32 * MIB;
  const bootSector = bootGuestSector(sixteenMegabytes);
  const huge = (name: string) => join(path("huge"), name);
  let reservedBefore = "";

  before(() => {
    dir = createScratchDir("disk");
    reservedBefore = readFileSync(RESERVED, "utf8");
    writeFileSync(RESERVED, String(Number(reservedBefore) + (6 * bytes) / HUGE_PAGE));
    execFileSync("mkdir", [path("huge")]);
    execFileSync("mount", ["-t", "hugetlbfs", "-o", "pagesize=2M", "multifd-test", path("huge")]);
  });
  afterEach(async () => {
    await stopAll();
    for (const name of readdirSync(path("huge"))) rmSync(huge(name));
  });
  after(() => {
    try {
      execFileSync("umount", [path("huge")]);
    } finally {
      writeFileSync(RESERVED, reservedBefore);
      removeScratchDir(dir);
    }
  });

  /** A guest on a hugetlbfs file that has written through its RAM at least once. */
  async function runningGuest(name: string): Promise<QemuProcess> {
    const vm = await start({ memory: [{ id: "pc.ram", path: huge(name), bytes }], bootSector });
    await waitForSweep(huge(name), 1);
    return vm;
  }

  /** Takes a running QEMU's guest into a hugetlbfs file and a device file. */
  async function receive(source: QemuProcess, into: string, compression: "none" | "zlib" | "zstd"): Promise<void> {
    const receiver = await startReceiver({
      listen: `unix:${path("in")}`,
      channels: 2,
      compression,
      ram: { "pc.ram": huge(into) },
      devices: path("devices"),
    });
    await source.setMigration({ channels: 2, compression, downtimeLimitMs: 10_000 });
    await source.migrateTo(formatAddress(receiver.address));
    const outcome = await source.waitMigration();
    assert.equal(outcome.status, "completed", outcome.error ?? "");
    await receiver.result;
  }

  function assertHuge(name: string): void {
    const file = openSync(huge(name), "r");
    assert.equal(hugePageBytes(file), HUGE_PAGE);
    closeSync(file);
  }

  for (const compression of ["none", "zlib", "zstd"] as const) {
    it(`goes from QEMU into our file and on into QEMU, both on huge pages: ${compression}`, async () => {
      const first = await runningGuest("first");
      await receive(first, "received.ram", compression);
      assertHuge("received.ram");
      assertSameBytes(huge("first"), huge("received.ram"));
      const left = checkBootGuest(huge("received.ram"), sixteenMegabytes);

      const second = await start({
        memory: [{ id: "pc.ram", path: huge("second"), bytes }],
        bootSector,
        incoming: "defer",
      });
      await second.setMigration({ channels: 2, compression });
      await second.listen(`unix:${path("out")}`);
      await send(huge("received.ram"), compression);
      await waitForSweep(huge("second"), left.sweep + 1);
      await waitForProgress(huge("second"));
      await second.execute("stop");
      assert.ok(checkBootGuest(huge("second"), sixteenMegabytes).sweep > left.sweep);
    });
  }

  it("clears what a file held that is written in place", async () => {
    // What the guest never wrote must read as zeros afterwards, whatever the file held.
    fillHugeFile(huge("used.ram"), bytes);
    const source = await runningGuest("first");
    await receive(source, "used.ram", "none");
    assertSameBytes(huge("first"), huge("used.ram"));
  });

  it("is refused as one clear error when no huge pages are left, and leaves no file", async () => {
    const source = await start({ memory: [{ id: "pc.ram", path: path("plain"), bytes: 2 * GIB }], paused: true });
    const receiver = await startReceiver({
      listen: `unix:${path("in")}`,
      channels: 2,
      compression: "none",
      ram: { "pc.ram": huge("too-much.ram") },
    });
    await source.setMigration({ channels: 2 });
    await source.migrateTo(formatAddress(receiver.address));
    await assert.rejects(receiver.result, { name: "SystemError", code: "SYSTEM_ENOSPC" });
    assert.equal((await source.waitMigration()).status, "failed");
    assert.deepEqual(readdirSync(path("huge")), []);
  });

  it("is read by mapping as it is by file", () => {
    const memory = createMemfd("huge", bytes, HUGE_PAGE);
    const mapping = mapFile(memory, { lengthBytes: bytes, writable: true });
    writeMemory(mapping, bytes - 1, Uint8Array.of(42));
    const last = new Uint8Array(1);
    readMemory(mapping, bytes - 1, last);
    unmap(mapping);
    assert.equal(readFileSync(`/proc/self/fd/${memory}`).at(-1), last[0]);
    closeSync(memory);
  });

  async function send(ramFile: string, compression: "none" | "zlib" | "zstd"): Promise<void> {
    const file = await readDeviceFile(path("devices"), new Map([["pc.ram", bytes]]));
    const guest = StoppedRam.open(new Map([["pc.ram", ramFile]]), file.pageBytes, file);
    const address = parseAddress(`unix:${path("out")}`);
    try {
      const result = await runSource({
        guest,
        peer: new QemuSourcePeer({ address, channels: 2, connectTimeoutMs: 5000 }),
        onEvent: () => {},
        compression,
        level: 1,
        devices: file.devices,
        downtimeLimitMs: 300,
        maxBandwidth: 0,
        roundsMax: 1,
        atRoundLimit: "fail",
        stallTimeoutMs: 20_000,
      });
      assert.equal(result.acknowledged, true);
    } finally {
      guest.close();
    }
  }
});

/** Makes a file on hugetlbfs in which every byte is set. */
function fillHugeFile(file: string, bytes: number): void {
  execFileSync("truncate", ["-s", String(bytes), file]);
  const descriptor = openSync(file, "r+");
  const mapping = mapFile(descriptor, { lengthBytes: bytes, writable: true });
  writeMemory(mapping, 0, new Uint8Array(bytes).fill(0xaa));
  unmap(mapping);
  closeSync(descriptor);
}
