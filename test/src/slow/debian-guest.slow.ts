/**
 * A real operating system, saved and restored, and relayed live: Debian's kernel with virtio-net, virtio-blk and virtio-rng.
 *
 * Slow, for a kernel boots under TCG; run by `npm run test:slow`, with what test/peers/debian-guest.sh makes.
 */
import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import { existsSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import {
  createScratchDir,
  MultifdProcess,
  QemuProcess,
  type QemuVersion,
  removeScratchDir,
  SerialConsole,
} from "../peers/index.js";

const GUEST = fileURLToPath(new URL("../../../.peers/debian", import.meta.url));
const BOOT_MS = 300_000;
const DISK_BYTES = 8 * 2 ** 20;
const pairs: readonly (readonly [source: QemuVersion, destination: QemuVersion, form: string])[] = [
  ["7.2", "7.2", "compressed"],
  ["11.1", "11.1", "mapped-ram"],
  ["7.2", "11.1", "compressed"],
];

describe("a Debian guest", function () {
  this.timeout(2 * BOOT_MS);
  const disk = randomBytes(DISK_BYTES);
  let dir: string;
  let vms: QemuProcess[];
  let consoles: SerialConsole[];
  const path = (name: string) => join(dir, name);

  const start = async (name: string, version: QemuVersion, incoming?: string) => {
    const vm = await QemuProcess.start({
      version,
      machine: "pc-i440fx-7.2",
      memory: [],
      extraArgs: [
        ...["-m", "256", "-kernel", join(GUEST, "vmlinuz"), "-initrd", join(GUEST, "initrd.img")],
        ...["-append", "console=ttyS0 mitigations=off quiet"],
        ...["-serial", `unix:${path(`${name}.serial`)},server=on,wait=off`],
        ...["-qmp", `unix:${path(`${name}.qmp`)},server=on,wait=off`],
        ...["-drive", `if=none,id=disk,format=raw,file=${path("disk")}`, "-device", "virtio-blk-pci,drive=disk"],
        // Without its boot ROM, which is another file in each distribution.
        ...["-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net,romfile="],
        ...["-device", "virtio-rng-pci"],
      ],
      ...(incoming === undefined ? {} : { incoming }),
    });
    vms.push(vm);
    const console = await SerialConsole.connect(path(`${name}.serial`));
    consoles.push(console);
    return { vm, console };
  };

  /** Sector 1000 of the disk past every cache, the host's answer to a ping, and bytes of the entropy device. */
  const checkDevices = async (console: SerialConsole) => {
    const sector = await console.run("dd if=/dev/vda iflag=direct bs=512 skip=1000 count=1 2>/dev/null | md5sum");
    const due = createHash("md5").update(disk.subarray(512_000, 512_512)).digest("hex");
    assert.equal(sector, `${due}  -`);
    assert.match(await console.run("ping -c 1 -W 20 10.0.2.2"), /1 packets received/);
    assert.match(await console.run("head -c 16 /dev/hwrng | wc -c"), /^16$/);
  };
  const counter = async (console: SerialConsole) => {
    // The counting process may be between emptying the file and writing it.
    const text = await console.run('until n=$(cat /tmp/counter) && [ -n "$n" ]; do :; done; echo $n');
    return Number(text);
  };

  before(() => {
    if (!existsSync(join(GUEST, "done")))
      throw new Error("the Debian guest is missing; run: sh test/peers/debian-guest.sh");
  });
  beforeEach(() => {
    dir = createScratchDir();
    writeFileSync(path("disk"), disk);
    vms = [];
    consoles = [];
  });
  afterEach(async () => {
    for (const console of consoles) console.close();
    await Promise.all(vms.map((vm) => vm.stop()));
    removeScratchDir(dir);
  });

  /** Boots it and gives it something to remember. @returns how far it has counted. */
  const boot = async (version: QemuVersion) => {
    const first = await start("first", version);
    await first.console.waitFor("the guest is up", BOOT_MS);
    await checkDevices(first.console);
    await first.console.run("remembered=$((6 * 7))");
    return { ...first, counted: await counter(first.console) };
  };
  /** It is the guest that counted so far, it goes on, and its devices work. */
  const checkLives = async (console: SerialConsole, counted: number) => {
    assert.equal(await console.run("echo $remembered"), "42");
    const after = await counter(console);
    assert.ok(after >= counted, `it had counted to ${counted}, and goes on from ${after}`);
    assert.ok((await counter(console)) > after, "the process goes on");
    await checkDevices(console);
    assert.doesNotMatch(await console.run("dmesg"), /BUG|Oops|panic|I\/O error/);
  };

  for (const [source, destination, form] of pairs) {
    it(`still answers on its console when restored, QEMU ${source} to ${destination}, ${form}`, async () => {
      const first = await boot(source);
      const saved = await MultifdProcess.run(
        ...["qemu", "save", "--qmp", path("first.qmp"), "--out", path("snapshot"), "--then", "quit", "--form", form],
      );
      assert.equal(saved.status, 0, saved.last.message);
      await first.vm.exited;

      const second = await start("second", destination, "defer");
      const restored = await MultifdProcess.run(
        ...["qemu", "restore", "--qmp", path("second.qmp"), "--from", path("snapshot")],
      );
      assert.equal(restored.status, 0, restored.last.message);
      await checkLives(second.console, first.counted);
    });

    it(`still answers on its console when relayed live, QEMU ${source} to ${destination}`, async () => {
      const first = await boot(source);
      const second = await start("second", destination, "defer");
      await second.vm.setMigration({ channels: 3, compression: "zstd" });
      await second.vm.listen(`unix:${path("out")}`);
      const relay = new MultifdProcess(
        ...["relay", "--listen", `unix:${path("in")}`, "--to", `unix:${path("out")}`],
        ...["--to-channels", "3", "--to-compression", "zstd"],
      );
      await relay.waitFor(({ event }) => event === "listening");
      await first.vm.setMigration({ channels: 2 });
      await first.vm.migrateTo(`unix:${path("in")}`);
      const relayed = await relay.outcome;
      assert.equal(relayed.status, 0, relayed.last.message);
      assert.equal((await first.vm.waitMigration()).status, "completed");
      await checkLives(second.console, first.counted);
    });
  }
});
