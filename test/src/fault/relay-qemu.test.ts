/** A relay between two real QEMUs, one of which refuses, dies or hangs: the guest runs on in exactly one place. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { formatAddress } from "@multifd/channel";
import type { MigrationEvent } from "@multifd/engine";
import { type RelayOptions, startRelay } from "../e2e/relaying.js";
import {
  bootGuestSector,
  createScratchDir,
  MultifdProcess,
  QemuProcess,
  type QemuVersion,
  removeScratchDir,
  sixteenMegabytes,
  waitForProgress,
  waitForSweep,
  zeroImage,
} from "../peers/index.js";
import { startGateway } from "./gateway.js";
import { ownError } from "./refusal.js";

const BYTES = 32 * 2 ** 20;
/** Slow enough for a round to last several seconds. */
const SLOW = 4 * 2 ** 20;
const LOST = /^(STREAM_CUT|CHANNEL_BROKEN|CHANNEL_CUT|CHANNEL_ENDED_EARLY)$/;
/** A refusing QEMU closes, and now and then says SHUT before. */
const REFUSED = /^(CHANNEL_BROKEN|PEER_REFUSED|ACKNOWLEDGEMENT_LOST)$/;
const versions: readonly QemuVersion[] = ["7.2", "11.1"];
/** A device with no RAM block of its own: without it at the destination only loading the devices fails. */
const EXTRA_DEVICE = ["-device", "virtio-rng-pci,romfile="];

for (const version of versions) {
  describe(`a relay between two QEMU ${version}`, function () {
    this.timeout(60_000);
    let dir: string;
    let source: QemuProcess;
    let destination: QemuProcess | null;
    const path = (name: string) => join(dir, name);
    before(async () => {
      dir = createScratchDir();
      zeroImage(path("live"), BYTES);
      source = await QemuProcess.start({
        version,
        memory: [{ id: "pc.ram", path: path("live"), bytes: BYTES }],
        bootSector: bootGuestSector(sixteenMegabytes),
        extraArgs: EXTRA_DEVICE,
      });
      await waitForSweep(path("live"), 1);
    });
    after(async () => {
      await source.stop();
      removeScratchDir(dir);
    });
    beforeEach(() => {
      destination = null;
    });
    afterEach(() => destination?.stop());

    type Other = { readonly machine?: string; readonly bytes?: number; readonly extraArgs?: readonly string[] };

    const startDestination = async ({ machine, bytes = BYTES, extraArgs = EXTRA_DEVICE }: Other = {}) => {
      zeroImage(path("heir"), bytes);
      destination = await QemuProcess.start({
        version,
        memory: [{ id: "pc.ram", path: path("heir"), bytes }],
        bootSector: bootGuestSector(sixteenMegabytes),
        incoming: "defer",
        extraArgs,
        ...(machine === undefined ? {} : { machine }),
      });
      await destination.setMigration({ channels: 2 });
      await destination.listen(`unix:${path("out")}`);
      return destination;
    };

    const relayOptions: RelayOptions = {
      listen: "",
      to: "",
      channels: 2,
      compression: "none",
      toChannels: 2,
      toCompression: "none",
    };

    /** Relays the source to the destination, calls `once` at the first event that fits, and waits for the failure. */
    const fail = async (
      fits: (event: MigrationEvent) => boolean,
      what: () => unknown,
      options: Partial<RelayOptions> = {},
      maxBandwidth = SLOW,
    ) => {
      const relay = await startRelay({
        ...relayOptions,
        listen: `unix:${path("in")}`,
        to: `unix:${path("out")}`,
        ...options,
      });
      await source.setMigration({ channels: 2, maxBandwidth, downtimeLimitMs: 300 });
      await source.migrateTo(formatAddress(relay.address));
      let error: unknown = null;
      const over = relay.result.then(
        () => assert.fail("the migration went well"),
        (failure) => {
          error = failure;
        },
      );
      for (let seen = 0; error === null; await sleep(5)) {
        const found = relay.events.slice(seen).some(fits);
        seen = relay.events.length;
        if (!found) continue;
        await what();
        break;
      }
      await over;
      return ownError(error);
    };
    const never = () => false;
    const nothing = () => {};
    const passesPages = (event: MigrationEvent) => event.event === "progress" && event.normalPages > 0;

    const assertSourceRunsOn = async () => {
      assert.equal((await source.waitMigration()).status, "failed");
      assert.equal(await source.runState(), "running");
      await waitForProgress(path("live"));
    };
    const assertDestinationDoesNotRun = async () => {
      const state = await Promise.race([destination!.exited, destination!.runState().catch(() => "gone")]);
      assert.notEqual(state, "running");
    };

    const refusals: readonly (readonly [string, Other])[] = [
      ["is another machine", { machine: "q35" }],
      ["has less RAM", { bytes: BYTES / 2 }],
      ["lacks a device", { extraArgs: [] }],
    ];
    for (const [why, other] of refusals) {
      it(`fails at the source when the destination ${why}`, async () => {
        await startDestination(other);
        const error = await fail(never, nothing, {}, 2 ** 40);
        assert.match(error.code, REFUSED);
        await assertSourceRunsOn();
        await assertDestinationDoesNotRun();
      });
    }

    it("fails at the source that opens more channels than the relay was told", async () => {
      await startDestination();
      const error = await fail(never, nothing, { channels: 1 });
      assert.deepEqual([error.name, error.code], ["ProtocolError", "MULTIFD_CHANNEL_ID"]);
      assert.match(error.message, /channel 1 came, this side expects 1 \(0 to 0\)/);
      await assertSourceRunsOn();
      await assertDestinationDoesNotRun();
    });

    it("fails at the source when the destination is killed in set-up", async () => {
      const heir = await startDestination();
      const error = await fail(
        ({ event }) => event === "connected",
        () => heir.stop(),
      );
      assert.match(error.code, /^(CHANNEL_BROKEN|CONNECT_FAILED)$/);
      await assertSourceRunsOn();
    });

    it("fails at the source when the destination is killed while RAM passes", async () => {
      const heir = await startDestination();
      const error = await fail(passesPages, () => heir.stop());
      assert.equal(error.code, "CHANNEL_BROKEN");
      assert.match(error.message, /^destination at unix:/);
      await assertSourceRunsOn();
    });

    it("fails at the source when the destination is killed while it loads its devices", async () => {
      const heir = await startDestination();
      // The first device section of every x86 machine; what it is followed by is held back.
      const gateway = await startGateway(path("gate"), path("out"), {
        main: (seen) => {
          const at = seen.indexOf("\x05timer");
          return at >= 0 && seen.length >= at + 8000 ? at + 8000 : null;
        },
      });
      try {
        const failed = fail(never, nothing, { to: `unix:${path("gate")}` }, 2 ** 40);
        await Promise.race([gateway.held, failed.then(() => assert.fail("it failed before it came to the devices"))]);
        await heir.stop();
        // What the kernel has taken counts as sent: from then on the relay does not know.
        assert.match((await failed).code, /^(CHANNEL_BROKEN|ACKNOWLEDGEMENT_LOST)$/);
        await assertSourceRunsOn();
      } finally {
        await gateway.close();
      }
    });

    it("fails at the source when the destination hangs while RAM passes", async () => {
      const heir = await startDestination();
      const error = await fail(passesPages, () => process.kill(heir.pid, "SIGSTOP"), { stallTimeoutMs: 3000 });
      assert.equal(error.code, "STALLED");
      await assertSourceRunsOn();
    });

    it("ends the destination, not the guest, when the source cancels", async () => {
      const heir = await startDestination();
      const error = await fail(passesPages, () => source.execute("migrate_cancel"));
      assert.match(error.code, LOST);
      assert.equal((await source.waitMigration()).status, "cancelled");
      assert.equal(await source.runState(), "running");
      await waitForProgress(path("live"));
      assert.match(await heir.exited, /status 1/);
    });

    it("ends both migrations, not the guest, when the relay itself is killed", async () => {
      const heir = await startDestination();
      const relay = new MultifdProcess("relay", "--listen", `unix:${path("in")}`, "--to", `unix:${path("out")}`);
      await relay.waitFor(({ event }) => event === "listening");
      await source.setMigration({ channels: 2, maxBandwidth: SLOW });
      await source.migrateTo(`unix:${path("in")}`);
      await relay.waitFor(({ event }) => event === "progress");
      relay.signal("SIGKILL");
      await relay.outcome;
      await assertSourceRunsOn();
      assert.match(await heir.exited, /status 1/);
    });

    it("ends the destination when the source is killed while RAM passes", async () => {
      const heir = await startDestination();
      const error = await fail(passesPages, () => source.stop());
      assert.match(error.code, LOST);
      assert.match(error.message, /^source at unix:|^channel/);
      assert.match(await heir.exited, /status 1/);
    });
  });
}
