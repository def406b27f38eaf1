/**
 * A running guest that counts through 100 MiB and prints, taken every way there is from one QEMU to another.
 *
 * Each way is taken between every pair of versions, and with every compression once. Afterwards
 * no page is lost or stale, the guest counts on, and what the two VMs have printed has no gap. All
 * of it by the commands, as an operator runs them.
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import type { QemuCompression } from "@multifd/protocol";
import {
  type BootGuest,
  bootGuestSector,
  checkBootGuest,
  checkSerialOutput,
  createScratchDir,
  MultifdProcess,
  makeAuthority,
  makeCertificates,
  QemuProcess,
  type QemuVersion,
  removeScratchDir,
  waitForProgress,
  waitForSweep,
  zeroImage,
} from "../peers/index.js";

const BYTES = 128 * 2 ** 20;
const guest: BootGuest = { firstByte: 2 ** 20, strideBytes: 4096, pageCount: 25_600, pagesPerTick: 0 };
const compressions: readonly QemuCompression[] = ["none", "zlib", "zstd"];
const pairs: readonly (readonly [from: QemuVersion, to: QemuVersion, machine: string])[] = [
  ["7.2", "7.2", "pc"],
  ["11.1", "11.1", "pc"],
  ["7.2", "11.1", "pc-i440fx-7.2"],
];

describe("a guest that counts through 100 MiB", function () {
  this.timeout(120_000);
  const bootSector = bootGuestSector(guest);
  let dir: string;
  let vms: QemuProcess[];
  let commands: MultifdProcess[];
  const path = (name: string) => join(dir, name);
  const unix = (name: string) => `unix:${path(name)}`;
  beforeEach(() => {
    dir = createScratchDir();
    vms = [];
    commands = [];
  });
  afterEach(async () => {
    for (const command of commands) command.signal("SIGKILL");
    await Promise.all(vms.map((vm) => vm.stop()));
    removeScratchDir(dir);
  });

  const start = async (version: QemuVersion, machine: string, name: string, incoming?: string) => {
    zeroImage(path(name), BYTES);
    const vm = await QemuProcess.start({
      version,
      machine,
      memory: [{ id: "pc.ram", path: path(name), bytes: BYTES }],
      bootSector,
      serial: path(`${name}.serial`),
      ...(incoming === undefined ? {} : { incoming }),
    });
    vms.push(vm);
    return vm;
  };

  /** Starts a command that listens. @returns where. */
  const listening = async (...args: readonly string[]): Promise<string> => {
    const command = new MultifdProcess(...args);
    commands.push(command);
    return (await command.waitFor(({ event }) => event === "listening")).address!;
  };
  const completed = async (command: MultifdProcess) => {
    const { status, last } = await command.outcome;
    assert.deepEqual([last.event, status], ["completed", 0], JSON.stringify(last));
  };
  const send = (...args: readonly string[]) => completed(new MultifdProcess("send", ...args));

  /** Migrates the first VM to where a command listens, and sees that both say that it went well. */
  const leave = async (first: QemuProcess, to: string, compression: QemuCompression) => {
    // The guest dirties its RAM faster than some methods carry it: without patience it would never stop.
    await first.setMigration({ channels: 2, compression, downtimeLimitMs: 30_000 });
    await first.migrateTo(to);
    for (const command of commands) await completed(command);
    assert.equal((await first.waitMigration()).status, "completed");
  };
  const method = (compression: QemuCompression) => ["--compression", compression];
  const files = () => ["--ram", `pc.ram=${path("kept")}`, "--devices", path("devices")];

  type Way = (first: QemuProcess, second: QemuProcess, compression: QemuCompression) => Promise<void>;
  const ways: readonly (readonly [name: string, way: Way])[] = [
    [
      "into files and out of them",
      async (first, second, compression) => {
        await leave(
          first,
          await listening("receive", "--listen", unix("in"), ...files(), ...method(compression)),
          compression,
        );
        await second.setMigration({ channels: 3, compression });
        await second.listen(unix("out"));
        await send(...files(), "--to", unix("out"), "--channels", "3", ...method(compression));
      },
    ],
    [
      "into a snapshot, which the other loads itself if it can",
      async (first, second, compression) => {
        const out = ["--out", path("snapshot")];
        await leave(
          first,
          await listening("receive", "--listen", unix("in"), ...out, ...method(compression)),
          compression,
        );
        if (second.version === "7.2") {
          await second.setMigration({ channels: 3, compression });
          await second.listen(unix("out"));
          return send("--from", path("snapshot"), "--to", unix("out"), "--channels", "3", ...method(compression));
        }
        await second.setMigration({ channels: 2, capabilities: { "mapped-ram": true, "return-path": false } });
        await second.listen(`file:${path("snapshot")}`);
        assert.equal((await second.waitMigration()).status, "completed");
      },
    ],
    [
      "through a relay",
      async (first, second, compression) => {
        await second.setMigration({ channels: 1 });
        await second.listen(unix("out"));
        const to = ["--to", unix("out"), "--to-channels", "1", "--to-compression", "none"];
        await leave(
          first,
          await listening("relay", "--listen", unix("in"), ...to, ...method(compression)),
          compression,
        );
      },
    ],
    [
      "through two relays, with zstd under TLS between them",
      async (first, second, compression) => {
        makeAuthority(path("authority"));
        makeCertificates(path("x509"), path("authority"));
        await second.setMigration({ channels: 4, compression });
        await second.listen(unix("out"));
        const far = await listening(
          ...["relay", "--listen", "tcp:127.0.0.1:0", "--tls-creds", path("x509"), "--compression", "zstd"],
          ...["--to", unix("out"), "--to-channels", "4", "--to-compression", compression],
        );
        const near = await listening(
          ...["relay", "--listen", unix("in"), ...method(compression)],
          ...["--to", far, "--to-tls-creds", path("x509"), "--to-compression", "zstd"],
        );
        await leave(first, near, compression);
      },
    ],
    [
      "into the very files that the other has mapped",
      async (first, second, compression) => {
        const shared = ["--ram", `pc.ram=${path("second")}`, "--devices", path("devices")];
        await leave(
          first,
          await listening("receive", "--listen", unix("in"), ...shared, ...method(compression)),
          compression,
        );
        await second.setMigration({ channels: 2, capabilities: { "x-ignore-shared": true } });
        await second.listen(unix("out"));
        await send(...shared, "--ignore-shared", "--to", unix("out"));
      },
    ],
  ];

  for (const [wayIndex, [name, way]] of ways.entries()) {
    for (const [pairIndex, [from, to, machine]] of pairs.entries()) {
      const compression = compressions[(wayIndex + pairIndex) % compressions.length]!;
      it(`counts on: ${name}, QEMU ${from} to ${to}, ${compression}`, async () => {
        const first = await start(from, machine, "first");
        await waitForSweep(path("first"), 1);
        const second = await start(to, machine, "second", "defer");
        await way(first, second, compression);

        const left = checkBootGuest(path("first"), guest);
        await waitForSweep(path("second"), left.sweep + 1);
        await waitForProgress(path("second"));
        await second.execute("stop");
        const now = checkBootGuest(path("second"), guest);
        assert.ok(now.sweep > left.sweep);
        // It may stop before it has printed the sweep that it has noted.
        const printed = checkSerialOutput(path("first.serial"), path("second.serial"));
        assert.ok(now.sweep - printed <= 1 && printed > left.sweep, `${now.sweep} sweeps, ${printed} printed`);
      });
    }
  }
});
