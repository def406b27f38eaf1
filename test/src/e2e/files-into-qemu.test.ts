/**
 * What our sender writes, read by QEMU's own receiver: a guest kept in files goes on in a QEMU.
 *
 * QEMU A, running → files → `multifd send` → QEMU B, of each dialect: the machine type
 * pins it, so pc-i440fx-7.2 takes the old one at a new QEMU too.
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { formatAddress } from "@multifd/channel";
import type { QemuCompression } from "@multifd/protocol";
import {
  assertSameBytes,
  type BootGuestState,
  bootGuestSector,
  checkBootGuest,
  checkSerialOutput,
  createScratchDir,
  type MigrationSetup,
  mixedImage,
  QemuProcess,
  type QemuVersion,
  removeScratchDir,
  sixteenMegabytes,
  waitForProgress,
  waitForSweep,
  zeroImage,
} from "../peers/index.js";
import { startReceiver } from "./receiver.js";
import { runSender, sendAll } from "./sender.js";

const MIB = 2 ** 20;
const BYTES = 32 * MIB;
const ways: readonly (readonly [compression: QemuCompression, channels: number, transport: "unix" | "tcp"])[] = [
  ["none", 1, "unix"],
  ["zlib", 3, "tcp"],
  ["zstd", 8, "unix"],
];
const pairs: readonly (readonly [from: QemuVersion, to: QemuVersion, machine: string])[] = [
  ["7.2", "7.2", "pc"],
  ["11.1", "11.1", "pc"],
  ["7.2", "11.1", "pc-i440fx-7.2"],
  ["11.1", "7.2", "pc-i440fx-7.2"],
];

type VmOptions = Parameters<typeof QemuProcess.start>[0];
/** The guest's main RAM is a file by this name for a VM, and by `kept` in between. */
type Vm = Omit<VmOptions, "memory"> & { readonly ram: string };

describe("a guest kept in files, sent on to QEMU", () => {
  const bootSector = bootGuestSector(sixteenMegabytes);
  let dir: string;
  let vms: QemuProcess[];
  const path = (name: string) => join(dir, name);
  const startVm = async (options: VmOptions) => {
    const vm = await QemuProcess.start(options);
    vms.push(vm);
    return vm;
  };
  const start = ({ ram, ...options }: Vm) => {
    zeroImage(path(ram), BYTES);
    return startVm({ memory: [{ id: "pc.ram", path: path(ram), bytes: BYTES }], ...options });
  };

  beforeEach(() => {
    dir = createScratchDir();
    vms = [];
  });
  afterEach(async () => {
    await Promise.all(vms.map((vm) => vm.stop()));
    removeScratchDir(dir);
  });

  /** Migrates a running VM into files. */
  const keep = async (
    vm: QemuProcess,
    ram: Readonly<Record<string, string>>,
    compression: QemuCompression = "none",
  ) => {
    const listen = `unix:${path("in")}`;
    const receiver = await startReceiver({ listen, channels: 2, compression, ram, devices: path("devices") });
    // The guest dirties its RAM faster than QEMU compresses with zlib: without patience it would never stop.
    await vm.setMigration({ channels: 2, compression, downtimeLimitMs: 10_000 });
    await vm.migrateTo(formatAddress(receiver.address));
    await receiver.result;
  };

  /** Has a VM wait for the guest, and returns the flags that send it there. */
  const waitIn = async (vm: QemuProcess, setup: Partial<MigrationSetup> = {}, transport: "unix" | "tcp" = "unix") => {
    const { channels = 2, compression = "none" } = setup;
    await vm.setMigration({ ...setup, channels });
    await vm.listen(transport === "unix" ? `unix:${path("out")}` : "tcp:127.0.0.1:0");
    const to = transport === "unix" ? `unix:${path("out")}` : `tcp:127.0.0.1:${await listeningPort(vm)}`;
    const flags = ["--channels", String(channels), "--compression", compression, "--stall-timeout", "20000"];
    return ["--to", to, "--devices", path("devices"), ...flags];
  };

  /** What holds of a guest that has moved: it runs on, no page is stale, and its output has no gap. */
  const assertGoesOn = async (vm: QemuProcess, ram: string, left: BootGuestState) => {
    await waitForSweep(ram, left.sweep + 1);
    await waitForProgress(ram);
    await vm.execute("stop");
    const now = checkBootGuest(ram, sixteenMegabytes);
    assert.ok(now.sweep > left.sweep);
    // It may stop before it has printed the sweep that it has noted.
    const printed = checkSerialOutput(path("serial.1"), path("serial.2"));
    assert.ok(now.sweep - printed <= 1 && printed > left.sweep, `${now.sweep} sweeps, ${printed} printed`);
  };

  for (const [from, to, machine] of pairs) {
    for (const [compression, channels, transport] of ways) {
      it(`runs on: ${from} to ${to}, machine ${machine}, ${compression}, ${channels} channels, ${transport}`, async () => {
        const first = await start({ version: from, machine, bootSector, ram: "first", serial: path("serial.1") });
        await waitForSweep(path("first"), 1);
        await keep(first, { "pc.ram": path("kept") }, compression);
        const left = checkBootGuest(path("kept"), sixteenMegabytes);

        const options = { version: to, machine, bootSector, serial: path("serial.2"), incoming: "defer" };
        const second = await start({ ...options, ram: "second" });
        const flags = await waitIn(second, { compression, channels }, transport);
        const result = await sendAll(["--ram", `pc.ram=${path("kept")}`, ...flags]);
        assert.equal(result.acknowledged, true);
        assert.ok(result.zeroPages > 0);
        await assertGoesOn(second, path("second"), left);
      });
    }

    it(`runs on the very pages received, which are not sent again: ${from} to ${to}, machine ${machine}`, async () => {
      const options = { machine, bootSector };
      const first = await start({ ...options, version: from, ram: "first", serial: path("serial.1") });
      const second = await start({
        ...options,
        version: to,
        ram: "second",
        serial: path("serial.2"),
        incoming: "defer",
      });
      await waitForSweep(path("first"), 1);
      await keep(first, { "pc.ram": path("second") });
      const left = checkBootGuest(path("second"), sixteenMegabytes);
      const flags = await waitIn(second, { capabilities: { "x-ignore-shared": true } });
      const result = await sendAll(["--ram", `pc.ram=${path("second")}`, ...flags, "--ignore-shared"]);
      assert.equal(result.acknowledged, true);
      assert.ok(result.ramBytes < MIB && result.wireBytes < 2 * MIB, "only firmware and devices crossed");
      await assertGoesOn(second, path("second"), left);
    });
  }

  it("runs on a q35 machine of another QEMU", async () => {
    const machine = "pc-q35-7.2";
    const first = await start({ version: "7.2", machine, bootSector, ram: "first", serial: path("serial.1") });
    await waitForSweep(path("first"), 1);
    await keep(first, { "pc.ram": path("kept") });
    const left = checkBootGuest(path("kept"), sixteenMegabytes);
    const options = { version: "11.1", machine, bootSector, serial: path("serial.2"), incoming: "defer" } as const;
    const second = await start({ ...options, ram: "second" });
    await sendAll(["--ram", `pc.ram=${path("kept")}`, ...(await waitIn(second, { compression: "zstd" }))]);
    await assertGoesOn(second, path("second"), left);
  });

  for (const version of ["7.2", "11.1"] as const) {
    for (const ignoreShared of [false, true]) {
      it(`comes with several RAM blocks, ${ignoreShared ? "those in files shared" : "all sent"}: QEMU ${version}`, async () => {
        const bytes = { m0: 33 * MIB + 64 * 1024, m1: 16 * MIB + 24 * 1024 };
        const vm = (prefix: string, options: Partial<VmOptions>) =>
          startVm({
            version,
            bootSector,
            memory: [
              { id: "m0", path: path(`${prefix}.m0`), bytes: bytes.m0 },
              { id: "m1", path: path(`${prefix}.m1`), bytes: bytes.m1 },
            ],
            extraArgs: ["-device", "VGA"],
            ...options,
          });
        zeroImage(path("first.m0"), bytes.m0);
        mixedImage(path("first.m1"), bytes.m1, 3);
        const first = await vm("first", { serial: path("serial.1") });
        await waitForSweep(path("first.m0"), 1);
        const second = await vm("second", { serial: path("serial.2"), incoming: "defer" });
        const kept = ignoreShared ? "second" : "kept";
        const ram = { m0: path(`${kept}.m0`), m1: path(`${kept}.m1`) };
        await keep(first, ram);
        const left = checkBootGuest(ram.m0, sixteenMegabytes);
        const flags = await waitIn(second, { capabilities: { "x-ignore-shared": ignoreShared } });
        const named = ["--ram", `m0=${ram.m0}`, "--ram", `m1=${ram.m1}`];
        await sendAll([...named, ...flags, ...(ignoreShared ? ["--ignore-shared"] : [])]);
        await assertGoesOn(second, path("second.m0"), left);
        assertSameBytes(path("first.m1"), path("second.m1"));
      });
    }
  }

  it("is taken by a QEMU without return path, and the result says that nobody acknowledged", async () => {
    const first = await start({ version: "11.1", bootSector, ram: "first", serial: path("serial.1") });
    await waitForSweep(path("first"), 1);
    await keep(first, { "pc.ram": path("kept") });
    const left = checkBootGuest(path("kept"), sixteenMegabytes);
    const options = { version: "11.1", bootSector, serial: path("serial.2"), incoming: "defer" } as const;
    const second = await start({ ...options, ram: "second" });
    const flags = await waitIn(second, { capabilities: { "return-path": false } });
    const result = await sendAll(["--ram", `pc.ram=${path("kept")}`, ...flags, "--no-return-path"]);
    assert.equal(result.acknowledged, false);
    await assertGoesOn(second, path("second"), left);
  });

  const told: readonly (readonly [what: string, flags: readonly string[], options: Omit<Vm, "ram">])[] = [
    [
      "a machine type without version on an old QEMU",
      ["--sync", "section", "--zero-pages", "main", "--switchover-start", "off"],
      { version: "7.2", machine: "microvm" },
    ],
    [
      "a new QEMU that was told to sync per section",
      ["--sync", "section", "--zero-pages", "main"],
      { version: "11.1", extraArgs: ["-global", "migration.multifd-flush-after-each-section=on"] },
    ],
    ["a new QEMU, zero pages on its main channel", ["--zero-pages", "main"], { version: "11.1" }],
  ];
  for (const [what, dialect, options] of told) {
    it(`arrives byte for byte in the dialect that was named: ${what}`, async () => {
      const vm = (ram: string, more: Partial<VmOptions>) =>
        startVm({ ...options, memory: [{ id: "pc.ram", path: path(ram), bytes: BYTES }], paused: true, ...more });
      mixedImage(path("first"), BYTES, 5);
      await keep(await vm("first", {}), { "pc.ram": path("kept") });
      // Zero pages on main are applied unseen: what the destination held before must not shine through.
      mixedImage(path("second"), BYTES, 6);
      const flags = await waitIn(await vm("second", { incoming: "defer" }));
      const result = await sendAll(["--ram", `pc.ram=${path("kept")}`, ...flags, ...dialect]);
      assert.equal(result.acknowledged, true);
      assertSameBytes(path("kept"), path("second"));
    });
  }

  for (const version of ["7.2", "11.1"] as const) {
    for (const compression of ["zlib", "zstd"] as const) {
      it(`arrives byte for byte, noise among compressible pages: QEMU ${version}, ${compression}`, async () => {
        const vm = (ram: string, more: Partial<VmOptions>) =>
          startVm({ version, memory: [{ id: "pc.ram", path: path(ram), bytes: BYTES }], paused: true, ...more });
        mixedImage(path("first"), BYTES, 7);
        await keep(await vm("first", {}), { "pc.ram": path("kept") });
        zeroImage(path("second"), BYTES);
        const flags = await waitIn(await vm("second", { incoming: "defer" }), { compression });
        const result = await sendAll(["--ram", `pc.ram=${path("kept")}`, ...flags]);
        assert.equal(result.acknowledged, true);
        assertSameBytes(path("kept"), path("second"));
      });
    }
  }

  it("fails where a machine type without version is an old one's, and says beforehand what to name", async () => {
    const options = { version: "7.2", machine: "microvm", paused: true } as const;
    await keep(await start({ ...options, ram: "first" }), { "pc.ram": path("kept") });
    const flags = await waitIn(await start({ ...options, ram: "second", incoming: "defer" }));
    const { status, last, stderr } = await runSender(["--ram", `pc.ram=${path("kept")}`, ...flags]);
    assert.deepEqual([status, last.event], [1, "failed"]);
    assert.match(stderr, /"microvm" bears no version .* name --sync, --zero-pages and --switchover-start/);
  });
});

/** The port that a VM got which was told to listen on port 0. */
async function listeningPort(vm: QemuProcess): Promise<string> {
  const info = (await vm.execute("query-migrate")) as { "socket-address": readonly { readonly port: string }[] };
  return info["socket-address"][0]!.port;
}
