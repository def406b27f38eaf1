/** `multifd qemu migrate` under what else a VM may be: preloaded, under TLS, with several RAM files, paused, on memfd. */
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { assertSameBytes, makeAuthority, makeCertificates, mixedImage, waitForSweep } from "../peers/index.js";
import { LiveVms } from "./live-vms.js";

const MIB = 2 ** 20;
const PRELOADED = fileURLToPath(new URL("../../../native/build/multifd-track.so", import.meta.url));

describe("a live guest of an unmodified QEMU, migrated in one way or another", () => {
  let vms: LiveVms;
  beforeEach(() => {
    vms = new LiveVms();
  });
  afterEach(() => vms.close());

  for (const version of ["7.2", "11.1"] as const) {
    it(`is tracked by the preload library where a sandbox forbids to attach: QEMU ${version}`, async () => {
      const first = await vms.start(version, {
        env: { LD_PRELOAD: PRELOADED, MULTIFD_TRACK: vms.path("ram.0") },
        extraArgs: ["-sandbox", "on"],
      });
      const second = await vms.start(version);
      await waitForSweep(first.ram, 1);
      await vms.passWhole(first, second, ["--channels", "1"]);
    });
  }

  for (const compression of ["lz4", "auto", "zlib"] as const) {
    it(`goes under TLS, compressed with ${compression}`, async () => {
      makeAuthority(vms.path("authority"));
      makeCertificates(vms.path("x509"), vms.path("authority"));
      const first = await vms.start("7.2");
      const second = await vms.start("11.1");
      await waitForSweep(first.ram, 1);
      const flags = ["--compression", compression, "--tls-creds", vms.path("x509")];
      const receiving = await vms.incoming(second, flags);
      const named = ["--tls-hostname", "localhost", "--downtime-limit", "2000"];
      const sent = await vms.migrate(first, [...flags, ...named]).outcome;
      assert.equal(sent.last.event, "completed", sent.last.message);
      assert.equal((await receiving.outcome).status, 0);
      await vms.assertGoesOn(second, vms.check(first));
    });
  }

  it("has its RAM in two files, as that of two NUMA nodes", async () => {
    const memory = (name: string) => [
      { id: "m0", path: vms.path(`${name}.m0`), bytes: 33 * MIB },
      { id: "m1", path: vms.path(`${name}.m1`), bytes: 16 * MIB },
    ];
    const first = await vms.start("7.2", { memory: memory("first") });
    mixedImage(vms.path("first.m1"), 16 * MIB, 3); // the guest leaves its second node alone
    const second = await vms.start("11.1", { memory: memory("second") });
    await waitForSweep(first.ram, 1);
    await vms.pass(first, second, ["--channels", "2"]);
    assertSameBytes(vms.path("first.m1"), vms.path("second.m1"));
    await vms.assertGoesOn(second, vms.check(first));
  });

  it("has its RAM in a memfd without a name, in a QEMU that leaves that out of its stream", async () => {
    const memfd = ["-object", "memory-backend-memfd,id=pc.ram,size=32M,share=on"];
    const options = { memory: [], machine: "pc-i440fx-7.2,memory-backend=pc.ram", extraArgs: ["-m", "32M", ...memfd] };
    const first = await vms.start("7.2", options);
    const second = await vms.start("7.2", options);
    const [here, there] = [vms.memfdOf(first), vms.memfdOf(second)];
    await waitForSweep(here, 1);
    await vms.pass(first, second, ["--channels", "2"]);
    await vms.assertGoesOn({ ...second, ram: there }, vms.check({ ...first, ram: here }));
  });

  it("stays paused where it was paused, and goes on when it is told to", async () => {
    const first = await vms.start("11.1");
    const second = await vms.start("11.1");
    await waitForSweep(first.ram, 1);
    await first.qemu.execute("stop");
    await vms.pass(first, second, ["--channels", "2"]);
    assertSameBytes(first.ram, second.ram);
    assert.equal(await second.qemu.runState(), "paused");
    await second.qemu.execute("cont");
    await vms.assertGoesOn(second, vms.check(first));
  });

  it("leaves no QEMU behind where the source's is to end with it", async () => {
    const first = await vms.start("7.2");
    const second = await vms.start("7.2");
    await waitForSweep(first.ram, 1);
    const receiving = await vms.incoming(second, []);
    const sent = await vms.migrate(first, ["--then", "quit", "--downtime-limit", "2000"]).outcome;
    assert.equal(sent.last.event, "completed", sent.last.message);
    assert.equal((await receiving.outcome).status, 0);
    assert.match(await first.qemu.exited, /status 0/);
    await vms.assertGoesOn(second, vms.check(first));
  });
});
