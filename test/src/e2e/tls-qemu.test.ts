/**
 * TLS with a real QEMU at each end of ours: certificates and pre-shared keys, in and out, byte for byte.
 *
 * QEMU brings GnuTLS and we bring OpenSSL, so what each takes for granted is tried
 * here: versions, ciphers, names, the end of a session.
 */
import assert from "node:assert/strict";
import { rmSync } from "node:fs";
import { join } from "node:path";
import {
  assertSameBytes,
  bootGuestSector,
  checkBootGuest,
  createScratchDir,
  makeAuthority,
  makeCertificates,
  makeKeys,
  mixedImage,
  QemuProcess,
  type QemuVersion,
  removeScratchDir,
  sixteenMegabytes,
  tlsObject,
  waitForProgress,
  waitForSweep,
  zeroImage,
} from "../peers/index.js";
import { startMultifd } from "./multifd-process.js";

const MIB = 2 ** 20;
const versions: readonly QemuVersion[] = ["7.2", "11.1"];
const kinds = ["x509", "psk"] as const;

describe("TLS with QEMU", () => {
  let dir: string;
  let vms: QemuProcess[] = [];
  const path = (name: string) => join(dir, name);
  before(() => {
    dir = createScratchDir();
    makeAuthority(path("authority"));
    makeCertificates(path("x509"), path("authority"));
    makeKeys(path("psk"));
  });
  after(() => removeScratchDir(dir));
  afterEach(async () => {
    await Promise.all(vms.map((vm) => vm.stop()));
    vms = [];
    for (const left of ["kept", "devices"]) rmSync(path(left), { force: true });
  });

  type Kind = (typeof kinds)[number];
  type VmOptions = Parameters<typeof QemuProcess.start>[0];
  const start = async (kind: Kind, ram: string, bytes: number, options: Omit<VmOptions, "memory">) => {
    const endpoint = options.incoming === undefined ? "client" : "server";
    const tls = tlsObject(kind, path(kind), endpoint);
    const memory = [{ id: "pc.ram", path: path(ram), bytes }];
    const vm = await QemuProcess.start({ ...options, memory, extraArgs: tls.args });
    vms.push(vm);
    await vm.setMigration({ channels: 2, parameters: tls.parameters });
    return vm;
  };

  /** From a QEMU into files and on to another QEMU, all of it under TLS. */
  const pass = async (kind: Kind, source: QemuProcess, destination: QemuProcess) => {
    const files = ["--ram", `pc.ram=${path("kept")}`, "--devices", path("devices"), "--tls-creds", path(kind)];
    const receiver = startMultifd(["receive", "--listen", "tcp:127.0.0.1:0", ...files]);
    await source.migrateTo(await receiver.address);
    const { last, status } = await receiver.ended;
    assert.equal(last.event, "completed", JSON.stringify(last));
    assert.deepEqual([last.event === "completed" && last.acknowledged, status], [true, 0]);
    const outcome = await source.waitMigration();
    assert.equal(outcome.status, "completed", outcome.error ?? "");

    await destination.listen(`unix:${path("out")}`);
    // A unix path has no host name for a certificate to bear.
    const sent = await startMultifd(["send", "--to", `unix:${path("out")}`, "--tls-hostname", "vm.example", ...files])
      .ended;
    assert.equal(sent.last.event, "completed", JSON.stringify(sent.last));
    assert.deepEqual([sent.last.event === "completed" && sent.last.acknowledged, sent.status], [true, 0]);
    assert.equal((await destination.waitMigration()).status, "completed");
  };

  for (const version of versions) {
    for (const kind of kinds) {
      it(`brings a paused guest in and sends it on: QEMU ${version}, ${kind}`, async () => {
        mixedImage(path("source"), 64 * MIB, 11);
        zeroImage(path("arrived"), 64 * MIB);
        const source = await start(kind, "source", 64 * MIB, { version, paused: true });
        const options = { version, paused: true, incoming: "defer" };
        const destination = await start(kind, "arrived", 64 * MIB, options);
        await pass(kind, source, destination);
        assertSameBytes(path("source"), path("kept"));
        assertSameBytes(path("source"), path("arrived"));
        assert.equal(destination.stderr, "");
        assert.equal(source.stderr, "");
      });
    }
  }

  it("lets a running guest go on, from QEMU 7.2 to QEMU 11.1", async () => {
    const machine = "pc-i440fx-7.2";
    const bootSector = bootGuestSector(sixteenMegabytes);
    for (const ram of ["first", "second"]) zeroImage(path(ram), 32 * MIB);
    const source = await start("x509", "first", 32 * MIB, { version: "7.2", machine, bootSector });
    const options = { machine, bootSector, incoming: "defer" };
    const destination = await start("x509", "second", 32 * MIB, { version: "11.1", ...options });
    await waitForSweep(path("first"), 1);
    await pass("x509", source, destination);
    const left = checkBootGuest(path("kept"), sixteenMegabytes);
    await waitForSweep(path("second"), left.sweep + 1);
    await waitForProgress(path("second"));
    await destination.execute("stop");
    assert.ok(checkBootGuest(path("second"), sixteenMegabytes).sweep > left.sweep);
  });
});
