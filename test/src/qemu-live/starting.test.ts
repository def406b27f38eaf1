/** `multifd qemu incoming` that starts its QEMU: as one that runs here, or by a command line; it lives on with the guest, or goes. */
import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { createServer, type Server, type Socket } from "node:net";
import { setTimeout as after } from "node:timers/promises";
import { preloadLibrary } from "@multifd/native";
import { QmpClient } from "@multifd/peer-qemu";
import {
  assertSameBytes,
  type CommandOutcome,
  checkBootGuest,
  checkSerialOutput,
  findQemu,
  MultifdProcess,
  type QemuVersion,
  sixteenMegabytes,
  waitForSweep,
} from "../peers/index.js";
import { type LiveVm, LiveVms } from "./live-vms.js";

describe("a QEMU that is started for a live guest", () => {
  let vms: LiveVms;
  let first: LiveVm;
  let monitor: Server;
  let dialled: Promise<Socket>;
  let started: number[];
  beforeEach(async () => {
    vms = new LiveVms();
    started = [];
    monitor = createServer();
    dialled = new Promise((resolve) => monitor.once("connection", resolve));
    await new Promise<void>((resolve) => monitor.listen(vms.path("dialled"), resolve));
  });
  afterEach(async () => {
    for (const pid of started) if (existsSync(`/proc/${pid}`)) process.kill(pid, "SIGKILL");
    monitor.close();
    await vms.close();
  });

  const program = (version: QemuVersion) => {
    const { command, args } = findQemu(version);
    return [command, ...args];
  };
  const own = () => [
    ...["--ram", `pc.ram=${vms.path("new.ram")}`, "--log", vms.path("log")],
    ...["--replace", `${first.serial}=${vms.path("new.serial")}`, `${first.qmp}=${vms.path("new.qmp")}`],
    // The first dialled the test, which takes one caller at a time.
    `${first.qemu.dir}/qmp.sock=${vms.path("dialled")}`,
  ];
  const incoming = (...flags: string[]) =>
    new MultifdProcess("qemu", "incoming", "--listen", `unix:${vms.path("link")}`, ...flags);
  const refused = async (flags: readonly string[], code: string, says: RegExp) => {
    const { status, last, stderr } = await incoming(...flags).outcome;
    assert.deepEqual([status, last.code], [1, code], `${last.message}; ${stderr}`);
    assert.match(last.message ?? "", says);
    assert.ok(!existsSync(vms.path("new.ram")) && !existsSync(vms.path("log")), "files are left");
  };
  const processOf = ({ last }: CommandOutcome) => Number((last as { readonly qemuPid?: unknown }).qemuPid);

  /** The guest has moved into the QEMU that was started, and goes on there. */
  const assertMoved = async (receiving: MultifdProcess, look: (pid: number) => void = () => {}) => {
    const sent = await vms.migrate(first, ["--downtime-limit", "2000"]).outcome;
    const received = await receiving.outcome;
    assert.equal(sent.last.event, "completed", `${sent.last.message}; ${sent.stderr}`);
    assert.equal(received.status, 0, `${received.last.message}; ${received.stderr}`);
    started.push(processOf(received));
    look(processOf(received));
    const qmp = await QmpClient.attach(await dialled, "the QEMU that was started");
    const left = vms.check(first);
    await waitForSweep(vms.path("new.ram"), left.sweep + 2);
    await qmp.execute("stop");
    const now = checkBootGuest(vms.path("new.ram"), sixteenMegabytes);
    const printed = checkSerialOutput(first.serial, vms.path("new.serial"));
    assert.ok(now.sweep - printed <= 1 && printed > left.sweep, `${now.sweep} sweeps, ${printed} printed`);
    qmp.close();
    const other = await QmpClient.connect(vms.path("new.qmp"));
    await other.execute("quit").catch(() => {}); // it may close its socket before it answers
    other.close();
    return received;
  };

  it("is like the one that runs here, and lives on with the guest", async () => {
    first = await vms.start("7.2");
    await waitForSweep(first.ram, 1);
    const receiving = incoming("--start-like", String(first.qemu.pid), ...own());
    await receiving.waitFor(({ event }) => event === "listening");
    const { stderr } = await assertMoved(receiving);
    assert.match(stderr, /RAM block "pc\.ram" lies in .*new\.ram instead of/);
    assert.match(stderr, /QEMU runs on as process \d+, and writes to .*log/);
  });

  it("has the preload library for its own RAM file where the one that runs here has it", async () => {
    first = await vms.start("11.1", { env: { LD_PRELOAD: preloadLibrary, MULTIFD_TRACK: vms.path("ram.0") } });
    await waitForSweep(first.ram, 1);
    const receiving = incoming("--start-like", String(first.qemu.pid), ...own());
    await receiving.waitFor(({ event }) => event === "listening");
    await assertMoved(receiving, (pid) => {
      const environment = readFileSync(`/proc/${pid}/environ`, "utf8").split("\0");
      assert.ok(environment.includes(`MULTIFD_TRACK=${vms.path("new.ram")}`));
      assert.match(readFileSync(`/proc/${pid}/maps`, "utf8"), /multifd-track\.so/);
    });
  });

  it("is a newer program than the one that runs here, with its options", async () => {
    first = await vms.start("7.2");
    await waitForSweep(first.ram, 1);
    const receiving = incoming("--start-like", String(first.qemu.pid), ...own(), "--", ...program("11.1"));
    await receiving.waitFor(({ event }) => event === "listening");
    await assertMoved(receiving);
  });

  for (const version of ["7.2", "11.1"] as const) {
    it(`is as the source's of 7.2 says, of version ${version}, when it has come`, async () => {
      first = await vms.start("7.2", { machine: "pc" }); // which is another machine to an 11.1
      await waitForSweep(first.ram, 1);
      const receiving = incoming("--start-as-source", ...own(), "--", ...program(version));
      await receiving.waitFor(({ event }) => event === "listening");
      assert.ok(!existsSync(vms.path("log")), "it was started before the source had said anything");
      const { stderr } = await assertMoved(receiving);
      assert.match(stderr, /the machine pc is called pc-i440fx-7\.2/);
    });
  }

  it("is not started as the source says where that would take something away, and the guest goes on", async () => {
    first = await vms.start("7.2");
    await waitForSweep(first.ram, 1);
    const serial = ["--replace", `${first.serial}=${vms.path("new.serial")}`];
    const ram = ["--ram", `pc.ram=${vms.path("new.ram")}`, "--log", vms.path("log")];
    for (const [flags, code, says] of [
      [[...ram, ...serial], "SOCKET_IN_USE", /qmp\.0/],
      [["--log", vms.path("log")], "RAM_BLOCK_MISSING", /"pc\.ram".*--ram pc\.ram=PATH/],
      [[...own(), "--", "/no/qemu-system-x86_64"], "QEMU_NOT_STARTED", /ENOENT/],
      [[...own(), "--", ...program("7.2"), "-device", "virtio-rng-pci"], "DEVICE_MISMATCH", /1af4:1005/],
    ] as const) {
      const receiving = incoming("--start-as-source", ...flags);
      await receiving.waitFor(({ event }) => event === "listening");
      const sent = await vms.migrate(first, []).outcome;
      const { status, last, stderr } = await receiving.outcome;
      assert.deepEqual([status, last.code], [1, code], `${last.message}; ${stderr}`);
      assert.match(last.message ?? "", says);
      assert.equal(sent.last.code, "PEER_REFUSED", sent.last.message);
      assert.ok(!existsSync(vms.path("new.ram")) && !existsSync(vms.path("log")), "files are left");
      assert.equal(await first.qemu.runState(), "running");
    }
  });

  it("is ended where no guest comes, and its RAM file goes with it", async () => {
    first = await vms.start("11.1");
    const receiving = incoming("--start-like", String(first.qemu.pid), ...own());
    await receiving.waitFor(({ event }) => event === "listening");
    const qmp = await QmpClient.attach(await dialled, "the QEMU that was started");
    assert.ok(existsSync(vms.path("new.ram")));
    receiving.signal("SIGINT");
    const { status, last } = await receiving.outcome;
    assert.deepEqual([status, last.code], [1, "CANCELLED"]);
    await assert.rejects(qmp.execute("query-status"), { code: "QMP_CLOSED" });
    assert.ok(!existsSync(vms.path("new.ram")) && !existsSync(vms.path("log")), "files are left");
    assert.equal(await first.qemu.runState(), "running");
  });

  /** The command is killed, and the QEMU that it has started goes too, with its RAM file. */
  const assertGoesToo = async (receiving: MultifdProcess) => {
    const qmp = await QmpClient.attach(await dialled, "the QEMU that was started");
    assert.ok(existsSync(vms.path("new.ram")));
    receiving.signal("SIGKILL");
    await assert.rejects(qmp.waitForEvent("SHUTDOWN"), { code: "QMP_CLOSED" }); // which one that is killed does not tell
    for (let look = 0; existsSync(vms.path("new.ram")); look++) {
      assert.ok(look < 1000, "its RAM file is left");
      await after(20);
    }
  };

  it("is ended where the command that started it is killed before a guest comes", async () => {
    first = await vms.start("11.1");
    const receiving = incoming("--start-like", String(first.qemu.pid), ...own());
    await receiving.waitFor(({ event }) => event === "listening");
    await assertGoesToo(receiving);
    assert.equal(await first.qemu.runState(), "running");
  });

  it("is ended where the command that started it is killed while a guest comes, which goes on where it was", async () => {
    first = await vms.start("7.2");
    await waitForSweep(first.ram, 1);
    const receiving = incoming("--start-as-source", ...own(), "--", ...program("7.2"));
    await receiving.waitFor(({ event }) => event === "listening");
    const sending = vms.migrate(first, ["--max-bandwidth", "4M"]);
    await sending.waitFor(({ event }) => event === "round");
    await assertGoesToo(receiving);
    const sent = await sending.outcome;
    assert.deepEqual([sent.status, sent.last.event], [1, "failed"]);
    assert.equal(await first.qemu.runState(), "running");
    await vms.assertGoesOn(first, { ...(await waitForSweep(first.ram, 1)) });
  });

  it("is refused where two would have the same, which is named", async () => {
    first = await vms.start("7.2");
    const like = ["--start-like", String(first.qemu.pid), "--log", vms.path("log")];
    await refused(like, "FILE_IN_USE", /serial\.0.*--replace/);
    const serial = ["--replace", `${first.serial}=${vms.path("s")}`];
    await refused([...like, ...serial], "SOCKET_IN_USE", /qmp\.0.*--replace .*qmp\.0=PATH/);
    const both = [...like, ...serial, `${first.qmp}=${vms.path("q")}`];
    await refused(both, "RAM_FILE_IN_USE", /--ram pc\.ram=PATH/);
    const taken = await incoming(...both, "--ram", `pc.ram=${first.ram}`).outcome;
    assert.deepEqual([taken.status, taken.last.code], [1, "RAM_FILE_IN_USE"]);
    assert.ok(existsSync(first.ram));
    assert.equal(await first.qemu.runState(), "running");
  });

  it("tells in its own words why it does not start", async () => {
    const line = (...words: string[]) => ["--log", vms.path("log"), "--start", "--", ...words];
    await refused(line("/no/qemu-system-x86_64"), "QEMU_NOT_STARTED", /ENOENT/);
    await refused(
      line(...program("7.2"), "-device", "nonsense"),
      "QEMU_NOT_STARTED",
      /'nonsense' is not a valid device/,
    );
  });

  it("is started by a command line of the caller's, which may be the source's own", async () => {
    first = await vms.start("11.1");
    await waitForSweep(first.ram, 1);
    await first.qemu.execute("stop");
    const line = [
      ...[...program("11.1"), "-nodefaults", "-no-user-config", "-display", "none", "-accel", "tcg"],
      ...["-object", `memory-backend-file,id=pc.ram,size=32M,mem-path=${first.ram},share=on`],
      ...["-machine", "pc-i440fx-7.2,memory-backend=pc.ram", "-m", "32M"],
      ...[
        "-drive",
        `if=none,id=boot,format=raw,file=${first.qemu.dir}/boot.img`,
        "-device",
        "ide-hd,drive=boot,bus=ide.0",
      ],
      ...["-serial", "null", "-qmp", `unix:${vms.path("new.qmp")},server=on`, "-incoming", "tcp:localhost:1"],
    ];
    const ram = ["--ram", `pc.ram=${vms.path("new.ram")}`, "--log", vms.path("log")];
    const receiving = incoming(...ram, "--start", "--", ...line);
    await receiving.waitFor(({ event }) => event === "listening");
    const sent = await vms.migrate(first, []).outcome;
    assert.equal(sent.last.event, "completed", `${sent.last.message}; ${sent.stderr}`);
    started.push(processOf(await receiving.outcome));
    assertSameBytes(first.ram, vms.path("new.ram"));
  });

  it("is named one way only", async () => {
    for (const flags of [[], ["--qmp", "/q", "--start"], ["--qmp", "/q", "--replace", "a=b"], ["--start"]]) {
      assert.equal((await incoming(...flags).outcome).status, 2);
    }
  });
});
