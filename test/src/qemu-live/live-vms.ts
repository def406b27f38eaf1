/**
 * Live VMs: a boot guest that passes from one QEMU to the next, through `multifd qemu migrate` and `qemu incoming`.
 *
 * Each VM is started for the guest's stay there: with RAM in a file of its own, and a QMP socket for our commands
 * beside the one that the test holds. Owns the VMs and their directory.
 */
import assert from "node:assert/strict";
import { readdirSync, readlinkSync } from "node:fs";
import { join } from "node:path";
import {
  assertSameBytes,
  type BootGuest,
  type BootGuestState,
  bootGuestSector,
  checkBootGuest,
  checkSerialOutput,
  createScratchDir,
  MultifdProcess,
  QemuProcess,
  type QemuVersion,
  removeScratchDir,
  sixteenMegabytes,
  waitForSweep,
  zeroImage,
} from "../peers/index.js";

const MACHINE = "pc-i440fx-7.2";
const MIB = 2 ** 20;

export type LiveVm = {
  readonly qemu: QemuProcess;
  readonly ram: string;
  readonly qmp: string;
  readonly serial: string;
};

type VmOptions = Partial<Parameters<typeof QemuProcess.start>[0]>;

export class LiveVms {
  readonly #dir = createScratchDir();
  readonly #vms: LiveVm[] = [];
  readonly #guest: BootGuest;
  readonly #bytes: number;

  constructor(guest: BootGuest = sixteenMegabytes, bytes = 32 * MIB) {
    this.#guest = guest;
    this.#bytes = bytes;
  }

  path(name: string): string {
    return join(this.#dir, name);
  }

  /** Starts the next VM: the first boots the guest, the others wait for it. */
  async start(version: QemuVersion, options: VmOptions = {}): Promise<LiveVm> {
    const number = this.#vms.length;
    const [ram, qmp, serial] = ["ram", "qmp", "serial"].map((name) => this.path(`${name}.${number}`)) as [
      string,
      string,
      string,
    ];
    const memory = options.memory ?? [{ id: "pc.ram", path: ram, bytes: this.#bytes }];
    for (const file of memory) zeroImage(file.path, file.bytes);
    const qemu = await QemuProcess.start({
      version,
      machine: MACHINE,
      bootSector: bootGuestSector(this.#guest),
      serial,
      ...(number > 0 && { incoming: "defer" }),
      ...options,
      memory,
      extraArgs: ["-qmp", `unix:${qmp},server=on,wait=off`, ...(options.extraArgs ?? [])],
    });
    const vm = { qemu, ram: memory[0]?.path ?? "", qmp, serial };
    this.#vms.push(vm);
    return vm;
  }

  /** Starts `qemu incoming` and resolves when it listens. */
  async incoming(vm: LiveVm, flags: readonly string[], listen = this.path("link")): Promise<MultifdProcess> {
    const command = new MultifdProcess("qemu", "incoming", "--qmp", vm.qmp, "--listen", `unix:${listen}`, ...flags);
    await command.waitFor(({ event }) => event === "listening");
    return command;
  }

  migrate(vm: LiveVm, flags: readonly string[], to = this.path("link")): MultifdProcess {
    return new MultifdProcess("qemu", "migrate", "--qmp", vm.qmp, "--to", `unix:${to}`, ...flags);
  }

  /** Passes the guest on. @throws {AssertionError} unless both sides report success. */
  async pass(from: LiveVm, to: LiveVm, flags: readonly string[], last: readonly string[] = []): Promise<number> {
    const receiving = await this.incoming(to, [...flags, ...last]);
    const sent = await this.migrate(from, [...flags, "--downtime-limit", "2000"]).outcome;
    const received = await receiving.outcome;
    assert.equal(sent.last.event, "completed", `${sent.last.message}; ${sent.stderr}`);
    assert.equal(received.last.event, "completed", `${received.last.message}; ${received.stderr}`);
    assert.equal(await from.qemu.runState(), "postmigrate");
    return sent.last.downtimeMs ?? -1;
  }

  /** Passes the guest on, to stand still there: its RAM is the same at both ends, and it goes on when it is told to. */
  async passWhole(from: LiveVm, to: LiveVm, flags: readonly string[]): Promise<void> {
    await this.pass(from, to, flags, ["--then", "pause"]);
    assertSameBytes(from.ram, to.ram);
    const left = this.check(to);
    assert.equal(await to.qemu.runState(), "paused");
    await to.qemu.execute("cont");
    await this.assertGoesOn(to, left);
  }

  /** The RAM of a VM that has it in a memfd, under the VM's own descriptor. */
  memfdOf({ qemu }: LiveVm): string {
    const folder = `/proc/${qemu.pid}/fd`;
    const found = readdirSync(folder).find((number) =>
      /^\/memfd:memory-backend/.test(readlinkSync(join(folder, number))),
    );
    assert.ok(found, "no memfd");
    return join(folder, found);
  }

  check(vm: LiveVm): BootGuestState {
    return checkBootGuest(vm.ram, this.#guest);
  }

  /** What holds of a guest that has moved: it runs on, no page is stale, and its output has no gap. */
  async assertGoesOn(vm: LiveVm, left: BootGuestState): Promise<void> {
    const index = this.#vms.findIndex(({ qmp }) => qmp === vm.qmp);
    await waitForSweep(vm.ram, left.sweep + 2);
    await vm.qemu.execute("stop");
    const now = this.check(vm);
    // It may stop before it has printed the sweep that it has noted.
    const printed = checkSerialOutput(...this.#vms.slice(0, index + 1).map(({ serial }) => serial));
    assert.ok(now.sweep - printed <= 1 && printed > left.sweep, `${now.sweep} sweeps, ${printed} printed`);
    await vm.qemu.execute("cont");
  }

  async close(): Promise<void> {
    await Promise.all(this.#vms.map(({ qemu }) => qemu.stop()));
    removeScratchDir(this.#dir);
  }
}
