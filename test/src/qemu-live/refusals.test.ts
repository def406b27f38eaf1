/** `multifd qemu migrate` and `incoming` when something does not fit: named before RAM moves, and both QEMUs stay as they were. */
import assert from "node:assert/strict";
import { type CommandOutcome, MultifdProcess, waitForProgress, waitForSweep } from "../peers/index.js";
import { type LiveVm, LiveVms } from "./live-vms.js";

const MIB = 2 ** 20;

describe("a live guest of an unmodified QEMU that cannot go where it is to go", () => {
  let vms: LiveVms;
  let first: LiveVm;
  let found: readonly unknown[];
  const settings = async ({ qemu }: LiveVm) => [
    await qemu.execute("query-migrate-capabilities"),
    await qemu.execute("query-migrate-parameters"),
  ];

  before(async () => {
    vms = new LiveVms();
    first = await vms.start("7.2");
    await waitForSweep(first.ram, 1);
    await first.qemu.execute("migrate-set-parameters", { "max-bandwidth": 12345678 });
    found = await settings(first);
  });
  after(() => vms.close());
  afterEach(async () => {
    assert.equal(await first.qemu.runState(), "running");
    assert.deepEqual(await settings(first), found);
    await waitForProgress(first.ram);
  });

  const failed = ({ status, last, stderr }: CommandOutcome, code: string, says: RegExp) => {
    assert.deepEqual([status, last.event, last.code], [1, "failed", code], `${last.message}; ${stderr}`);
    assert.match(last.message ?? "", says);
  };
  const file = (bytes: number, id = "pc.ram") => [{ id, path: vms.path(`other.${id}.${bytes}`), bytes }];

  const unlike = [
    [
      "of another machine type",
      { machine: "pc-q35-7.2" },
      "MACHINE_TYPE_MISMATCH",
      /start it with -machine pc-i440fx-7\.2/,
    ],
    [
      "with a device more",
      { extraArgs: ["-device", "virtio-rng-pci"] },
      "DEVICE_MISMATCH",
      /only this QEMU has .*1af4:1005/,
    ],
    ["with a processor more", { extraArgs: ["-smp", "2"] }, "PROCESSOR_MISMATCH", /only this QEMU has/],
  ] as const;
  for (const [what, options, code, says] of unlike) {
    it(`is refused by a QEMU ${what}, which waits on`, async () => {
      const second = await vms.start("7.2", options);
      const before = await settings(second);
      const receiving = await vms.incoming(second, []);
      const sent = await vms.migrate(first, []).outcome;
      failed(await receiving.outcome, code, says);
      failed(sent, "PEER_REFUSED", /waiting for the destination to agree.*its own log says why/);
      assert.equal(await second.qemu.runState(), "inmigrate");
      assert.deepEqual(await settings(second), before);
    });
  }

  it("is refused by a QEMU with more memory, or with its memory under another name", async () => {
    for (const [memory, code, says] of [
      [file(64 * MIB), "RAM_SIZE_MISMATCH", /33554432 bytes at the source and 67108864 in this QEMU/],
      [file(32 * MIB, "ram0"), "RAM_BLOCK_MISSING", /shares no RAM block "pc\.ram", it shares "ram0"/],
    ] as const) {
      const second = await vms.start("7.2", { memory });
      const receiving = await vms.incoming(second, []);
      await vms.migrate(first, []).outcome;
      failed(await receiving.outcome, code, says);
      assert.equal(await second.qemu.runState(), "inmigrate");
    }
  });

  it("is told from one whose RAM is its own, at either end", async () => {
    const own = { memory: [], extraArgs: ["-m", "32M"] };
    const second = await vms.start("7.2", { ...own, incoming: "defer" });
    const incoming = MultifdProcess.run("qemu", "incoming", "--qmp", second.qmp, "--listen", `unix:${vms.path("l")}`);
    failed(await incoming, "RAM_PRIVATE", /memory-backend-file.*share=on/);
    const alone = new LiveVms();
    try {
      const source = await alone.start("11.1", own);
      failed(await alone.migrate(source, []).outcome, "RAM_PRIVATE", /memory-backend-file.*share=on/);
      assert.equal(await source.qemu.runState(), "running");
    } finally {
      await alone.close();
    }
  });

  it("is not taken in by a QEMU that has a guest, nor by files", async () => {
    const incoming = MultifdProcess.run("qemu", "incoming", "--qmp", first.qmp, "--listen", `unix:${vms.path("l")}`);
    failed(await incoming, "RUN_STATE", /-incoming defer/);
    const files = new MultifdProcess(
      ...["receive", "--listen", `unix:${vms.path("link")}`, "--ram", `pc.ram=${vms.path("kept")}`],
    );
    await files.waitFor(({ event }) => event === "listening");
    failed(await vms.migrate(first, []).outcome, "PEER_REFUSED", /its own log says why/);
    assert.equal((await files.outcome).last.code, "DEVICE_STATE_UNEXPECTED");
  });

  it("is not awaited by anybody", async () => {
    failed(await vms.migrate(first, [], vms.path("nobody")).outcome, "CONNECT_FAILED", /nobody/);
  });

  it("can be tried again after a failure, into the same QEMU", async () => {
    const second = await vms.start("7.2");
    const receiving = await vms.incoming(second, []);
    const sending = vms.migrate(first, ["--max-bandwidth", "8M"]);
    await sending.waitFor(({ event, wireBytes }) => event === "progress" && (wireBytes ?? 0) > MIB);
    sending.signal("SIGINT");
    failed(await sending.outcome, "CANCELLED", /cancelled/);
    assert.equal((await receiving.outcome).status, 1);
    assert.equal(await second.qemu.runState(), "inmigrate");

    const again = await vms.incoming(second, ["--then", "pause"]);
    const source = await vms.migrate(first, ["--downtime-limit", "2000"]).outcome;
    assert.equal(source.last.event, "completed", source.last.message);
    assert.equal((await again.outcome).status, 0);
    const left = vms.check(second);
    assert.deepEqual(vms.check(first), left);
    await second.qemu.execute("quit");
    await first.qemu.execute("cont"); // for what is looked at after each
  });
});
