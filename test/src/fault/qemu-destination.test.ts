/** `multifd send` to a real QEMU that refuses, dies or falls silent: it ends with a reason, and its files stay whole. */
import assert from "node:assert/strict";
import { copyFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { formatAddress } from "@multifd/channel";
import { readDeviceFile } from "@multifd/peer-qemu";
import { startReceiver } from "../e2e/receiver.js";
import { runSender } from "../e2e/sender.js";
import {
  assertSameBytes,
  createScratchDir,
  mixedImage,
  QemuProcess,
  type QemuVersion,
  removeScratchDir,
  zeroImage,
} from "../peers/index.js";
import { type Gateway, type HoldPoint, startGateway } from "./gateway.js";

const MIB = 2 ** 20;
const BYTES = 64 * MIB;
const versions: readonly QemuVersion[] = ["7.2", "11.1"];
/** A device with state and without RAM of its own. */
const RNG = ["-device", "virtio-rng-pci"];

type VmOptions = Partial<Parameters<typeof QemuProcess.start>[0]>;
/** For destinations that may fall silent for good. */
const IMPATIENT = ["--stall-timeout", "2000"];
/** For one that must first get somewhere, however busy the machine. */
const PATIENT = ["--stall-timeout", "6000"];
type Due = { readonly code: RegExp; readonly says: RegExp };

for (const version of versions) {
  describe(`multifd send to a QEMU ${version} that fails`, function () {
    this.timeout(30_000);
    let dir: string;
    let vm: QemuProcess | null;
    let gateway: Gateway | null;
    /** Bytes that begin the device sections. */
    let devicesBegin: Buffer;
    const path = (name: string) => join(dir, name);

    /** Migrates a paused VM into `kept` and a device part. */
    const keep = async (devices: string, extraArgs: readonly string[]) => {
      const memory = [{ id: "pc.ram", path: path("image"), bytes: BYTES }];
      const source = await QemuProcess.start({ version, memory, extraArgs, paused: true });
      try {
        const receiver = await startReceiver({
          listen: `unix:${path("in")}`,
          channels: 2,
          compression: "none",
          ram: { "pc.ram": path("kept") },
          devices: path(devices),
        });
        await source.setMigration({ channels: 2 });
        await source.migrateTo(formatAddress(receiver.address));
        await receiver.result;
      } finally {
        await source.stop();
      }
    };

    before(async () => {
      dir = createScratchDir();
      mixedImage(path("image"), BYTES, 9);
      await keep("rng.devices", RNG);
      await keep("devices", []);
      const { devices, kept } = await readDeviceFile(path("devices"), new Map([["pc.ram", BYTES]]));
      assert.ok(kept.length > 0);
      devicesBegin = Buffer.from(devices.sections.subarray(0, 64));
      copyFileSync(path("devices"), path("devices.before"));
    });
    after(() => removeScratchDir(dir));
    beforeEach(() => {
      vm = null;
      gateway = null;
    });
    afterEach(async () => {
      await gateway?.close();
      await vm?.stop();
      assertSameBytes(path("image"), path("kept"));
      assertSameBytes(path("devices"), path("devices.before"));
      assert.deepEqual(
        readdirSync(dir).filter((name) => name.endsWith(".partial")),
        [],
      );
    });

    const start = async (options: VmOptions = {}, bytes = BYTES, capabilities = {}, channels = 2) => {
      zeroImage(path("ram"), bytes);
      const memory = [{ id: "pc.ram", path: path("ram"), bytes }];
      vm = await QemuProcess.start({ version, memory, paused: true, incoming: "defer", ...options });
      await vm.setMigration({ channels, capabilities });
      await vm.listen(`unix:${path("out")}`);
      return vm;
    };

    const failTo = async (due: Due, flags: readonly string[] = [], to = "out", devices = "devices") => {
      const files = ["--ram", `pc.ram=${path("kept")}`, "--devices", path(devices)];
      const sent = await runSender([...files, "--to", `unix:${path(to)}`, "--stall-timeout", "20000", ...flags]);
      assert.ok(sent.last.event === "failed", JSON.stringify(sent.last));
      assert.match(sent.last.code, due.code, sent.last.message);
      assert.match(sent.last.message, due.says);
      assert.equal(sent.status, 1);
    };

    /** Waits until the gateway holds the stream; a migration that ends sooner fails the test. */
    const heldBefore = async (ended: Promise<void>) => {
      const first = await Promise.race([gateway!.held.then(() => "held"), ended.then(() => "ended")]);
      assert.equal(first, "held");
    };

    describe("by refusing", () => {
      const WORD = /^(PEER_REFUSED|CHANNEL_BROKEN)$/;

      it("another machine type", async () => {
        await start({ machine: "q35" });
        await failTo({ code: WORD, says: /^(setting up|sending round 1, the last): / });
      });

      it("another RAM size", async () => {
        await start({}, 2 * BYTES);
        await failTo({ code: WORD, says: /^(setting up|sending round 1, the last): / });
      });

      it("RAM that is left out for it, when it does not share any", async () => {
        await start();
        await failTo({ code: WORD, says: /^(setting up|sending round 1, the last): / }, ["--ignore-shared"]);
      });

      it("RAM that it was told would be left out", async () => {
        await start({}, BYTES, { "x-ignore-shared": true });
        await failTo({ code: WORD, says: /^(setting up|sending round 1, the last): / });
      });

      it("a device that it does not have, after everything was sent", async () => {
        await start();
        // The older one goes without a word, as if it had been killed.
        const due =
          version === "7.2"
            ? { code: /^ACKNOWLEDGEMENT_LOST$/, says: /^everything was sent, and then the destination's word was lost/ }
            : { code: /^PEER_REFUSED$/, says: /^waiting for the destination's word: the destination reports that it/ };
        await failTo(due, [], "out", "rng.devices");
      });
    });

    describe("by being killed", () => {
      const points: readonly (readonly [where: string, point: () => HoldPoint, due: Due])[] = [
        [
          "in set-up",
          () => ({ main: (seen) => (seen.length >= 20 ? 20 : null) }),
          { code: /^CHANNEL_BROKEN$/, says: /^(setting up|sending round 1, the last): / },
        ],
        [
          "in mid-RAM",
          () => ({ channelBytes: 4 * MIB }),
          { code: /^CHANNEL_BROKEN$/, says: /^sending round 1, the last: / },
        ],
        [
          "while it loads its devices",
          () => ({
            main: (seen) => {
              const at = seen.indexOf(devicesBegin);
              return at >= 0 && seen.length >= at + 20_000 ? at + 20_000 : null;
            },
          }),
          // What the kernel has taken counts as sent: from then on nobody knows.
          {
            code: /^(CHANNEL_BROKEN|ACKNOWLEDGEMENT_LOST)$/,
            says: /^(sending the device part: |everything was sent, and then the destination's word was lost)/,
          },
        ],
      ];
      for (const [where, point, due] of points) {
        it(where, async () => {
          const killed = await start();
          gateway = await startGateway(path("gate"), path("out"), point());
          const failed = failTo(due, [], "gate");
          await heldBefore(failed);
          process.kill(killed.pid, "SIGKILL");
          await failed;
        });
      }
    });

    describe("by silence", () => {
      const SILENCE: Due = { code: /^(STALLED|CONNECT_TIMEOUT)$/, says: /2000 ms while|did not answer/ };

      it("from the start", async () => {
        process.kill((await start()).pid, "SIGSTOP");
        await failTo(SILENCE, IMPATIENT);
      });

      it("in mid-RAM", async () => {
        const stopped = await start();
        gateway = await startGateway(path("gate"), path("out"), { channelBytes: 4 * MIB });
        const failed = failTo({ code: /^STALLED$/, says: /6000 ms while sending round 1, the last/ }, PATIENT, "gate");
        await heldBefore(failed);
        process.kill(stopped.pid, "SIGSTOP");
        await failed;
      });

      it("for want of channels that it waits for", async () => {
        await start({}, BYTES, {}, 4);
        await failTo({ code: /^STALLED$/, says: /2000 ms while sending round 1/ }, IMPATIENT);
      });
    });

    it("for the wrong compression", async () => {
      await start();
      await failTo({ code: /^(PEER_REFUSED|CHANNEL_BROKEN|STALLED)$/, says: /sending round 1/ }, [
        ...IMPATIENT,
        "--compression",
        "zstd",
      ]);
    });

    it("for a dialect that it does not speak", async () => {
      await start();
      const other = version === "7.2" ? "round" : "section";
      await failTo({ code: /^(PEER_REFUSED|CHANNEL_BROKEN|STALLED)$/, says: /(setting up|sending round 1)/ }, [
        ...IMPATIENT,
        "--sync",
        other,
      ]);
    });
  });
}
