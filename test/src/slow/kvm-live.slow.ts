/**
 * `multifd qemu migrate` of a guest that KVM runs: its writes reach RAM without QEMU, and without TCG's ways of losing one.
 *
 * A machine whose KVM no QEMU can use has these tests listed as pending, with the reason. Linux guests are
 * left to TCG (debian-live.slow.ts): not every KVM runs a distribution's kernel.
 */
import { spawnSync } from "node:child_process";
import { preloadLibrary } from "@multifd/native";
import { findQemu, type QemuVersion, waitForSweep } from "../peers/index.js";
import { LiveVms } from "../qemu-live/live-vms.js";

const pairs: readonly (readonly [QemuVersion, QemuVersion])[] = [
  ["7.2", "7.2"],
  ["11.1", "11.1"],
  ["7.2", "11.1"],
];
/** KVM writes its clock into RAM by itself, also when the destination loads: without it RAM is the same to the byte. */
const WITHOUT_CLOCK = ["-cpu", "qemu64,kvmclock=off"];
const TRIPS = 6;
const PROBE_MS = 20_000;

/** Why KVM cannot be used here, in QEMU's words; null where it can. */
function whyNoKvm(version: QemuVersion): string | null {
  const { command, args } = findQemu(version);
  const machine = ["-nodefaults", "-no-user-config", "-display", "none", "-S", "-accel", "kvm", "-monitor", "stdio"];
  const { error, signal, status, stderr } = spawnSync(command, [...args, ...machine], {
    input: "quit\n",
    encoding: "utf8",
    timeout: PROBE_MS,
  });
  if (error === undefined && status === 0) return null;
  return error?.message ?? `QEMU ${version} ended (${signal ?? `status ${status}`}): ${stderr.trim()}`;
}

describe("a live guest that KVM runs, migrated by our data plane", () => {
  const reason = whyNoKvm("7.2") ?? whyNoKvm("11.1");
  if (reason !== null) {
    it(`cannot be tried here, where KVM is of no use: ${reason}`);
    return;
  }
  let vms: LiveVms;
  beforeEach(() => {
    vms = new LiveVms();
  });
  afterEach(() => vms.close());

  for (const [from, to] of pairs)
    for (const way of ["attach", "preload"] as const)
      for (const compression of ["none", "zstd"] as const)
        for (const channels of [1, 4])
          it(`has the same RAM, and runs on: ${from} to ${to}, ${way}, ${compression}, ${channels} channels`, async () => {
            const env = way === "preload" ? { LD_PRELOAD: preloadLibrary, MULTIFD_TRACK: vms.path("ram.0") } : {};
            const first = await vms.start(from, { accelerator: "kvm", extraArgs: WITHOUT_CLOCK, env });
            const second = await vms.start(to, { accelerator: "kvm", extraArgs: WITHOUT_CLOCK });
            await waitForSweep(first.ram, 2);
            const flags = ["--compression", compression, "--channels", String(channels)];
            await vms.passWhole(first, second, flags);
          }).timeout(120_000);

  it(`passes to and fro ${TRIPS} times without a stale page, with KVM's clock`, async () => {
    let here = await vms.start("7.2", { accelerator: "kvm" });
    await waitForSweep(here.ram, 1);
    for (let trip = 1; trip <= TRIPS; trip++) {
      const next = await vms.start(trip % 2 === 0 ? "7.2" : "11.1", { accelerator: "kvm" });
      await vms.pass(here, next, ["--channels", "2"]);
      await vms.assertGoesOn(next, vms.check(here));
      await here.qemu.stop();
      here = next;
    }
  }).timeout(TRIPS * 30_000);
});
