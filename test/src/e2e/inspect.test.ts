/** What real QEMUs save of many devices: every byte has its field, and the fields say what the monitor says. */
import assert from "node:assert/strict";
import { readFileSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { formatAddress } from "@multifd/channel";
import { runCommandLine } from "@multifd/cli";
import {
  bootGuestSector,
  createScratchDir,
  mixedImage,
  QemuProcess,
  type QemuVersion,
  removeScratchDir,
  sixteenMegabytes,
  waitForSweep,
  zeroImage,
} from "../peers/index.js";
import { startReceiver } from "./receiver.js";
import { save as saveSnapshot } from "./saved-guest.js";

const MIB = 2 ** 20;
const PAGE_BYTES = 4096;
const NODE_BYTES = 32 * MIB;
/** Of an e1000, whose register file is one array: the word at byte 8 of its memory. */
const STATUS_REGISTER = 2;
const STATUS_LINK_UP = 2;
const ETHERNET_ADDRESS = "52:54:00:12:34:56";

const flags = (text: string) => text.trim().split(/\s+/);
const disk = (id: string, path: string) => flags(`-drive if=none,id=${id},format=raw,file=${path},file.locking=off`);

/** Devices of both releases, in two VMs, for a bus has no room for all. */
const MACHINES = {
  "network, USB, sound, IPMI": (path: (name: string) => string) => [
    ...disk("blk", path("blk")),
    ...disk("scsi", path("scsi")),
    ...disk("stick", path("stick")),
    ...flags(`
      -smp 2 -audiodev none,id=a -chardev null,id=c0 -chardev null,id=c1 -serial chardev:c1
      -netdev hubport,id=n0,hubid=0 -netdev hubport,id=n1,hubid=1 -netdev hubport,id=n2,hubid=2 -netdev hubport,id=n3,hubid=3
      -netdev hubport,id=n4,hubid=4 -netdev hubport,id=n5,hubid=5 -netdev hubport,id=n6,hubid=6 -netdev hubport,id=n7,hubid=7
      -device VGA -device virtio-net-pci,netdev=n0 -device virtio-rng-pci -device virtio-balloon-pci
      -device virtio-blk-pci,drive=blk -device virtio-serial-pci,id=vs -device virtconsole,chardev=c0,bus=vs.0
      -device virtio-scsi-pci,id=vscsi -device scsi-hd,drive=scsi,bus=vscsi.0 -device virtio-keyboard-pci -device virtio-iommu-pci
      -device e1000,netdev=n1,mac=${ETHERNET_ADDRESS} -device e1000e,netdev=n2 -device rtl8139,netdev=n3
      -device vmxnet3,netdev=n4 -device pcnet,netdev=n5 -device i82559er,netdev=n6 -device tulip,netdev=n7
      -device intel-hda -device hda-duplex,audiodev=a -device AC97,audiodev=a -device ES1370,audiodev=a -device sb16,audiodev=a
      -device qemu-xhci,id=x -device usb-kbd,bus=x.0 -device usb-tablet,bus=x.0 -device usb-storage,drive=stick,bus=x.0
      -device usb-hub,bus=x.0 -device usb-ccid,bus=x.0 -device i6300esb -device vmgenid -device vmcoreinfo
      -device ipmi-bmc-sim,id=b0 -device isa-ipmi-kcs,bmc=b0 -device ipmi-bmc-sim,id=b1 -device isa-ipmi-bt,bmc=b1`),
  ],
  "storage, bridges, further USB, memory": (path: (name: string) => string) => [
    ...disk("card", path("card")),
    ...flags(`
      -chardev null,id=c0 -device lsi53c895a,id=lsi -device scsi-cd,bus=lsi.0 -device mptsas1068 -device megasas -device pvscsi
      -device am53c974 -device sdhci-pci -device sd-card,drive=card -device pci-serial,chardev=c0 -device pci-bridge,chassis_nr=1
      -device usb-ehci -device piix3-usb-uhci -device pci-ohci -device nec-usb-xhci -device ich9-ahci,id=ahci
      -device ide-cd,bus=ahci.0 -device cirrus-vga -device ib700 -device pvpanic -device edu -device pvpanic-pci`),
  ],
};

type Field = { name: string; index?: number; value?: unknown; values?: unknown[]; bytes?: string; state?: State };
type State = { fields: Field[]; subsections: State[] };
type Device = { name: string; instanceId: number; at: number; lengthBytes: number; state: State };
type Inspected = {
  event: string;
  form: string;
  machineType: string;
  blocks: { name: string; lengthBytes: number; dataPages: number; zeroPages: number; absentPages: number }[];
  devices: Device[];
  unaccounted: unknown[];
};

async function inspect(...words: string[]): Promise<{ code: number; out: string }> {
  let out = "";
  const terminal = {
    out: (text: string) => {
      out += text;
    },
    err: () => {},
    isInteractive: false,
    columns: () => 80,
  };
  return { code: await runCommandLine(["inspect", ...words], terminal), out };
}

function fieldOf({ devices }: Inspected, device: string, field: string): Field {
  const found = devices.find(({ name }) => name.endsWith(device))?.state.fields.find(({ name }) => name === field);
  assert.ok(found, `${device} has no field ${field}`);
  return found;
}

/** Data, zero and absent pages of a block. */
function pagesOf({ blocks }: Inspected, block: string): readonly number[] {
  const { dataPages, zeroPages, absentPages } = blocks.find(({ name }) => name === block)!;
  return [dataPages, zeroPages, absentPages];
}

function pagesOfImage(path: string): readonly number[] {
  const image = readFileSync(path);
  const zeros = Buffer.alloc(PAGE_BYTES);
  let zeroPages = 0;
  for (let at = 0; at < image.length; at += PAGE_BYTES)
    if (image.subarray(at, at + PAGE_BYTES).equals(zeros)) zeroPages++;
  return [image.length / PAGE_BYTES - zeroPages, zeroPages, 0];
}

/** In the order that the CPU's state lists them. */
const REGISTERS = ["AX", "CX", "DX", "BX", "SP", "BP", "SI", "DI"];

/** The monitor's word for a register, its low 32 bits: all that it tells outside long mode. */
function registerOf(monitor: string, name: string): number {
  const match = new RegExp(`[ER]${name}\\s*=([0-9a-f]+)`).exec(monitor);
  return Number.parseInt(match![1]!.slice(-8), 16);
}

for (const version of ["7.2", "11.1"] satisfies QemuVersion[]) {
  describe(`multifd inspect on what QEMU ${version} saved`, () => {
    let dir: string;
    let vms: QemuProcess[];
    const path = (name: string) => join(dir, name);
    const save = async (vm: QemuProcess, name: string) => {
      await vm.migrateTo(`exec:cat>${path(name)}`);
      assert.equal((await vm.waitMigration()).status, "completed");
      return path(name);
    };

    beforeEach(() => {
      dir = createScratchDir();
      vms = [];
      for (const name of ["blk", "scsi", "stick", "card"]) {
        writeFileSync(path(name), "");
        truncateSync(path(name), MIB);
      }
    });
    afterEach(async () => {
      await Promise.all(vms.map((vm) => vm.stop()));
      removeScratchDir(dir);
    });

    for (const machine of ["pc", "q35"])
      for (const [what, args] of Object.entries(MACHINES))
        it(`accounts for every byte of a running ${machine} with ${what}`, async () => {
          const memory = ["m0", "m1"].map((id) => ({ id, path: path(id), bytes: NODE_BYTES }));
          for (const { path, bytes } of memory) zeroImage(path, bytes);
          const bootSector = bootGuestSector(sixteenMegabytes);
          const vm = await QemuProcess.start({ version, machine, memory, bootSector, extraArgs: args(path) });
          vms.push(vm);
          await waitForSweep(path("m0"), 1);
          await vm.execute("stop");
          const command = { "command-line": "info registers" };
          const monitor = (await vm.execute("human-monitor-command", command)) as string;
          await vm.setMigration({ channels: 0, capabilities: { "return-path": false } });
          const saved = await save(vm, "saved");

          const { code, out } = await inspect(saved, "--json");
          const inspected = JSON.parse(out) as Inspected;
          assert.deepEqual([code, inspected.event, inspected.unaccounted], [0, "completed", []]);
          assert.match(inspected.machineType, new RegExp(`^pc-(i440fx|q35)-${version.replace(".", "\\.")}$`));
          const { devices, blocks } = inspected;
          assert.ok(devices.length >= 45);
          // Sections follow each other without a gap.
          for (const [i, device] of devices.slice(1).entries())
            assert.equal(device.at, devices[i]!.at + devices[i]!.lengthBytes);

          const regs = fieldOf(inspected, "cpu", "env.regs").values!.slice(0, REGISTERS.length);
          assert.deepEqual(
            regs.map((value) => Number(BigInt.asUintN(32, BigInt(value as number | string)))),
            REGISTERS.map((name) => registerOf(monitor, name)),
          );
          assert.equal(fieldOf(inspected, "cpu", "env.eip").value, registerOf(monitor, "IP"));
          assert.match(
            Buffer.from(fieldOf(inspected, "globalstate", "runstate").bytes!, "hex").toString(),
            /^paused\0/,
          );
          if (devices.some(({ name }) => name.endsWith("/e1000"))) {
            const words = fieldOf(inspected, "/e1000", "eeprom_data").values!.slice(0, 3) as number[];
            const address = words.flatMap((word) => [word % 256, word >> 8]);
            assert.equal(address.map((byte) => byte.toString(16).padStart(2, "0")).join(":"), ETHERNET_ADDRESS);
          }
          const nodes = blocks.filter(({ name }) => name === "m0" || name === "m1");
          assert.deepEqual(
            nodes.map(({ lengthBytes, dataPages, zeroPages, absentPages }) => [
              lengthBytes,
              (dataPages + zeroPages) * PAGE_BYTES,
              absentPages,
            ]),
            [
              [NODE_BYTES, NODE_BYTES, 0],
              [NODE_BYTES, NODE_BYTES, 0],
            ],
          );

          const text = await inspect(saved);
          assert.match(text.out, /every one of \d+ bytes is accounted for/);
        });

    it("finds no difference after another QEMU loaded and saved it, and finds what was changed there", async () => {
      const passOn = async (from: string | null, to: string, change: (vm: QemuProcess) => Promise<unknown>) => {
        // A clock that stands still with the guest: the host's may tick between two saves.
        const clock = ["-rtc", "base=2020-01-01,clock=vm"];
        const extraArgs = ["-m", "16", "-device", "e1000,id=nic", "-device", "qemu-xhci", ...clock];
        const incoming = from === null ? {} : { incoming: "defer" };
        const vm = await QemuProcess.start({ version, memory: [], paused: true, extraArgs, ...incoming });
        vms.push(vm);
        await vm.setMigration({ channels: 0, capabilities: { "return-path": false } });
        if (from !== null) {
          await vm.listen(`exec:cat ${from}`);
          assert.equal((await vm.waitMigration()).status, "completed");
        }
        await change(vm);
        return save(vm, to);
      };
      const first = await passOn(null, "first", async () => {});
      const second = await passOn(first, "second", async () => {});
      const third = await passOn(second, "third", (vm) => vm.execute("set_link", { name: "nic", up: false }));

      assert.deepEqual(await inspect("--diff", first, second), { code: 0, out: "no differences\n" });
      const { code, out } = await inspect("--diff", "--json", second, third);
      const { differences } = JSON.parse(out) as { differences: { path: string[]; a: number[]; b: number[] }[] };
      assert.deepEqual([code, [...new Set(differences.map(({ path }) => path[0]))]], [1, ["0000:00:02.0/e1000"]]);
      const registers = differences.find(({ path }) => path.at(-1) === "mac_reg")!;
      assert.equal(registers.a[STATUS_REGISTER]! - registers.b[STATUS_REGISTER]!, STATUS_LINK_UP);
    });

    it("finds the same guest in snapshots of both forms, and every byte of its devices", async () => {
      const bytes = 64 * MIB;
      mixedImage(path("source"), bytes, 7);
      const found: Inspected[] = [];
      for (const form of ["mapped-ram", "compressed"] as const) {
        const memory = [{ id: "pc.ram", path: path("source"), bytes }];
        const vm = await QemuProcess.start({ version, memory, paused: true });
        vms.push(vm);
        await saveSnapshot(vm, form, path(form), { socket: path("in"), channels: 2, compression: "none" });
        const { code, out } = await inspect(path(form), "--json");
        assert.equal(code, 0);
        found.push(JSON.parse(out) as Inspected);
      }
      for (const [i, form] of ["mapped-ram", "compressed"].entries()) {
        assert.deepEqual([found[i]!.form, found[i]!.unaccounted], [form, []]);
        assert.deepEqual(pagesOf(found[i]!, "pc.ram"), pagesOfImage(path("source")));
      }
      const [first, second] = found as [Inspected, Inspected];
      assert.deepEqual(
        first.devices.map(({ name, lengthBytes }) => [name, lengthBytes]),
        second.devices.map(({ name, lengthBytes }) => [name, lengthBytes]),
      );
      const runState = fieldOf(first, "globalstate", "runstate") as Field & { at: number };
      assert.equal(readFileSync(path("mapped-ram")).toString("latin1", runState.at, runState.at + 9), "prelaunch");
      const refused = await inspect(path("compressed"), "--json", "--ram", `pc.ram=${path("source")}`);
      assert.equal((JSON.parse(refused.out) as { code: string }).code, "RAM_IN_SNAPSHOT");
    });

    it("looks into the RAM files beside a device file", async () => {
      const bytes = 64 * MIB;
      mixedImage(path("source"), bytes, 7);
      const receiver = await startReceiver({
        listen: `unix:${path("in")}`,
        channels: 2,
        compression: "none",
        ram: { "pc.ram": path("received") },
        devices: path("devices"),
      });
      const memory = [{ id: "pc.ram", path: path("source"), bytes }];
      const vm = await QemuProcess.start({ version, memory, paused: true });
      vms.push(vm);
      await vm.setMigration({ channels: 2 });
      await vm.migrateTo(formatAddress(receiver.address));
      await receiver.result;

      const { code, out } = await inspect(path("devices"), "--ram", `pc.ram=${path("received")}`, "--json");
      assert.equal(code, 0);
      const inspected = JSON.parse(out) as Inspected;
      assert.deepEqual(inspected.unaccounted, []);
      assert.deepEqual(pagesOf(inspected, "pc.ram"), pagesOfImage(path("source")));
    });
  });
}

describe("multifd inspect on a snapshot that QEMU 11.1 wrote itself", () => {
  for (const channels of [0, 2])
    it(`accounts for every byte, ${channels > 0 ? "with" : "without"} multifd`, async () => {
      const dir = createScratchDir();
      mixedImage(join(dir, "source"), 64 * MIB, 7);
      const memory = [{ id: "pc.ram", path: join(dir, "source"), bytes: 64 * MIB }];
      const vm = await QemuProcess.start({ version: "11.1", machine: "q35", memory, paused: true });
      try {
        await vm.setMigration({ channels, capabilities: { "mapped-ram": true, "return-path": false } });
        await vm.migrateTo(`file:${join(dir, "snapshot")}`);
        assert.equal((await vm.waitMigration()).status, "completed");
        const { code, out } = await inspect(join(dir, "snapshot"), "--json");
        const inspected = JSON.parse(out) as Inspected;
        assert.deepEqual([code, inspected.form, inspected.unaccounted], [0, "mapped-ram", []]);
        assert.deepEqual(pagesOf(inspected, "pc.ram"), pagesOfImage(join(dir, "source")));
        assert.match((await inspect(join(dir, "snapshot"), "--depth", "0")).out, /^form {11}mapped-ram snapshot$/m);
      } finally {
        await vm.stop();
        removeScratchDir(dir);
      }
    });
});
