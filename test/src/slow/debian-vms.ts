/**
 * Debian VMs: a real operating system (Debian's kernel, busybox) in one QEMU after another, with virtio-blk, -net and -rng.
 *
 * What boots is made by test/peers/debian-guest.sh. A VM's shell is on its serial console, its disk is one file that
 * all share, and host port `port` leads to port 7 of the guest. Owns the VMs and their directory.
 */
import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import { existsSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import {
  createScratchDir,
  QemuProcess,
  type QemuVersion,
  type RamFile,
  removeScratchDir,
  SerialConsole,
} from "../peers/index.js";

const GUEST = fileURLToPath(new URL("../../../.peers/debian", import.meta.url));
export const BOOT_MS = 300_000;
export const DEBIAN_RAM_BYTES = 256 * 2 ** 20;
const DISK_BYTES = 8 * 2 ** 20;

export type DebianVm = {
  readonly vm: QemuProcess;
  readonly console: SerialConsole;
  readonly qmp: string;
  readonly port: number;
};

export type DebianOptions = {
  readonly incoming?: string;
  /** A file of `DEBIAN_RAM_BYTES` for its RAM; QEMU's own unless given. */
  readonly ram?: RamFile;
  /** Beside those that every one has. */
  readonly devices?: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
};

/** @throws {Error} where the guest has not been made. */
export function requireDebianGuest(): void {
  if (!existsSync(join(GUEST, "done")))
    throw new Error("the Debian guest is missing; run: sh test/peers/debian-guest.sh");
}

export class DebianVms {
  readonly #dir = createScratchDir();
  readonly #vms: DebianVm[] = [];
  readonly #disk = randomBytes(DISK_BYTES);

  constructor() {
    writeFileSync(this.path("disk"), this.#disk);
  }

  path(name: string): string {
    return join(this.#dir, name);
  }

  async start(name: string, version: QemuVersion, options: DebianOptions = {}): Promise<DebianVm> {
    const { incoming, ram, devices = [], env } = options;
    const qmp = this.path(`${name}.qmp`);
    const port = await freePort();
    const vm = await QemuProcess.start({
      version,
      machine: "pc-i440fx-7.2",
      memory: ram === undefined ? [] : [ram],
      extraArgs: [
        ...(ram === undefined ? ["-m", `${DEBIAN_RAM_BYTES}B`] : []),
        ...["-kernel", join(GUEST, "vmlinuz"), "-initrd", join(GUEST, "initrd.img")],
        ...["-append", "console=ttyS0 mitigations=off quiet"],
        ...["-serial", `unix:${this.path(`${name}.serial`)},server=on,wait=off`],
        ...["-qmp", `unix:${qmp},server=on,wait=off`],
        ...["-drive", `if=none,id=disk,format=raw,file=${this.path("disk")}`, "-device", "virtio-blk-pci,drive=disk"],
        // Without its boot ROM, which is another file in each distribution.
        ...["-netdev", `user,id=net,hostfwd=tcp:127.0.0.1:${port}-:7`],
        ...["-device", "virtio-net-pci,netdev=net,romfile=", "-device", "virtio-rng-pci"],
        ...devices.flatMap((device) => ["-device", device]),
      ],
      ...(incoming !== undefined && { incoming }),
      ...(env !== undefined && { env }),
    });
    const console = await SerialConsole.connect(this.path(`${name}.serial`)).catch(async (error: unknown) => {
      await vm.stop();
      throw error;
    });
    const started = { vm, console, qmp, port };
    this.#vms.push(started);
    return started;
  }

  /** Starts the first one, with something to remember. @returns it, and how far it has counted. */
  async boot(version: QemuVersion, options: DebianOptions = {}): Promise<DebianVm & { readonly counted: number }> {
    const first = await this.start("first", version, options);
    await first.console.waitFor("the guest is up", BOOT_MS);
    await this.checkDevices(first.console);
    await first.console.run("remembered=$((6 * 7))");
    return { ...first, counted: await counter(first.console) };
  }

  /** Sector 1000 of the disk past every cache, the host's answer to a ping, and bytes of the entropy device. */
  async checkDevices(console: SerialConsole): Promise<void> {
    const sector = await console.run("dd if=/dev/vda iflag=direct bs=512 skip=1000 count=1 2>/dev/null | md5sum");
    const due = createHash("md5").update(this.#disk.subarray(512_000, 512_512)).digest("hex");
    assert.equal(sector, `${due}  -`);
    assert.match(await console.run("ping -c 1 -W 20 10.0.2.2"), /1 packets received/);
    assert.match(await console.run("head -c 16 /dev/hwrng | wc -c"), /^16$/);
  }

  /** It is the guest that counted so far, it goes on, and its devices work. */
  async checkLives(console: SerialConsole, counted: number): Promise<void> {
    assert.equal(await console.run("echo $remembered"), "42");
    const after = await counter(console);
    assert.ok(after >= counted, `it had counted to ${counted}, and goes on from ${after}`);
    // The process goes on, when it has its turn.
    await console.run(`until n=$(cat /tmp/counter) && [ -n "$n" ] && [ "$n" -gt ${after} ]; do usleep 20000; done`);
    await this.checkDevices(console);
    assert.doesNotMatch(await console.run("dmesg"), /BUG|Oops|panic|I\/O error/);
  }

  async close(): Promise<void> {
    for (const { console } of this.#vms) console.close();
    await Promise.all(this.#vms.map(({ vm }) => vm.stop()));
    removeScratchDir(this.#dir);
  }
}

async function counter(console: SerialConsole): Promise<number> {
  // The counting process may be between emptying the file and writing it.
  return Number(await console.run('until n=$(cat /tmp/counter) && [ -n "$n" ]; do :; done; echo $n'));
}

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as { readonly port: number };
  await new Promise((resolve) => server.close(resolve));
  return port;
}
