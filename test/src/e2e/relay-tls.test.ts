/** A running guest passes through two relays with a compressed and encrypted link between them, and under TLS at every end. */
import assert from "node:assert/strict";
import { join } from "node:path";
import {
  bootGuestSector,
  checkBootGuest,
  createScratchDir,
  MultifdProcess,
  makeAuthority,
  makeCertificates,
  makeKeys,
  QemuProcess,
  type QemuVersion,
  removeScratchDir,
  sixteenMegabytes,
  tlsObject,
  waitForProgress,
  waitForSweep,
  zeroImage,
} from "../peers/index.js";

const BYTES = 32 * 2 ** 20;
const MACHINE = "pc-i440fx-7.2";
const pairs: readonly (readonly [from: QemuVersion, to: QemuVersion])[] = [
  ["7.2", "7.2"],
  ["11.1", "11.1"],
  ["7.2", "11.1"],
];

describe("a running guest that is relayed under TLS", () => {
  const bootSector = bootGuestSector(sixteenMegabytes);
  let dir: string;
  let vms: QemuProcess[];
  let relays: MultifdProcess[];
  const path = (name: string) => join(dir, name);
  before(() => {
    dir = createScratchDir();
    makeAuthority(path("authority"));
    makeCertificates(path("x509"), path("authority"));
    makeKeys(path("psk"));
  });
  after(() => removeScratchDir(dir));
  beforeEach(() => {
    vms = [];
    relays = [];
  });
  afterEach(async () => {
    for (const relay of relays) relay.signal("SIGKILL");
    await Promise.all(vms.map((vm) => vm.stop()));
  });

  const start = async (version: QemuVersion, ram: string, extraArgs: readonly string[], incoming?: string) => {
    zeroImage(path(ram), BYTES);
    const memory = [{ id: "pc.ram", path: path(ram), bytes: BYTES }];
    const options = { version, machine: MACHINE, memory, bootSector, extraArgs };
    const vm = await QemuProcess.start(incoming === undefined ? options : { ...options, incoming });
    vms.push(vm);
    return vm;
  };

  /** Starts a relay. @returns Where it listens. */
  const relay = async (...flags: readonly string[]): Promise<string> => {
    const started = new MultifdProcess("relay", ...flags);
    relays.push(started);
    return (await started.waitFor(({ event }) => event === "listening")).address!;
  };

  for (const [from, to] of pairs) {
    it(`runs on at the destination: ${from} → relay → zstd under TLS over tcp → relay → ${to}`, async () => {
      const first = await start(from, "first", []);
      const second = await start(to, "second", [], "defer");
      await second.setMigration({ channels: 2 });
      await second.listen(`unix:${path("out")}`);
      const far = await relay(
        ...["--listen", "tcp:127.0.0.1:0", "--tls-creds", path("x509"), "--channels", "3", "--compression", "zstd"],
        ...["--to", `unix:${path("out")}`, "--to-channels", "2", "--to-compression", "none"],
      );
      const near = await relay(
        ...["--listen", `unix:${path("in")}`, "--to", far, "--to-tls-creds", path("x509")],
        ...["--to-channels", "3", "--to-compression", "zstd"],
      );
      await passesWhole(first, second, near, {});
    });
  }

  it("runs on at the destination: both QEMUs under TLS, by a key on the one side and certificates on the other", async () => {
    const [key, certificates] = [
      tlsObject("psk", path("psk"), "client"),
      tlsObject("x509", path("x509"), "server"),
    ] as const;
    const first = await start("7.2", "first", key.args);
    const second = await start("11.1", "second", certificates.args, "defer");
    await second.setMigration({ channels: 2, parameters: certificates.parameters });
    await second.listen(`unix:${path("out")}`);
    const address = await relay(
      ...["--listen", "tcp:127.0.0.1:0", "--tls-creds", path("psk"), "--to", `unix:${path("out")}`],
      ...["--to-tls-creds", path("x509"), "--to-tls-hostname", "vm.example"],
    );
    await passesWhole(first, second, address, key.parameters);
  });

  it("fails at the source, and says why, when the destination's certificate is another's", async () => {
    makeCertificates(path("elsewhere"), path("authority"), { serverNames: "DNS:elsewhere.example" });
    const other = tlsObject("x509", path("elsewhere"), "server");
    const first = await start("11.1", "first", []);
    const second = await start("11.1", "second", other.args, "defer");
    await second.setMigration({ channels: 2, parameters: other.parameters });
    await second.listen(`unix:${path("out")}`);
    const address = await relay(
      ...["--listen", `unix:${path("in")}`, "--to", `unix:${path("out")}`],
      ...["--to-tls-creds", path("x509"), "--to-tls-hostname", "vm.example"],
    );
    await waitForSweep(path("first"), 1);
    await first.setMigration({ channels: 2 });
    await first.migrateTo(address);
    const { last } = await relays[0]!.outcome;
    assert.match(last.code!, /^TLS_/);
    assert.match(last.message!, /vm\.example/);
    assert.equal((await first.waitMigration()).status, "failed");
    await waitForProgress(path("first"));
  });

  const passesWhole = async (
    first: QemuProcess,
    second: QemuProcess,
    to: string,
    parameters: Readonly<Record<string, unknown>>,
  ) => {
    await waitForSweep(path("first"), 1);
    await first.setMigration({ channels: 2, parameters, downtimeLimitMs: 10_000 });
    await first.migrateTo(to);
    for (const { outcome } of relays) {
      const { last, status } = await outcome;
      assert.deepEqual([last.event, status], ["completed", 0], last.message);
    }
    assert.equal((await first.waitMigration()).status, "completed");
    const left = checkBootGuest(path("first"), sixteenMegabytes);
    await waitForSweep(path("second"), left.sweep + 1);
    await waitForProgress(path("second"));
    await second.execute("stop");
    assert.ok(checkBootGuest(path("second"), sixteenMegabytes).sweep > left.sweep);
  };
});
