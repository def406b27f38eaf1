/**
 * `multifd qemu migrate`: a live guest passes between unmodified QEMUs over our own data plane.
 *
 * The matrix compares the RAM at the moment of the stop byte for byte, and then lets the guest go on. Trips to and
 * fro are counted by MULTIFD_LIVE_TRIPS.
 */
import assert from "node:assert/strict";
import { setImmediate } from "node:timers/promises";
import { assertSameBytes, waitForSweep } from "../peers/index.js";
import { Link } from "./link.js";
import { LiveVms } from "./live-vms.js";

const TRIPS = Number(process.env["MULTIFD_LIVE_TRIPS"] ?? 6);
const matrix = [
  ["7.2", "7.2", "none", 1],
  ["11.1", "11.1", "zstd", 4],
  ["7.2", "11.1", "none", 4],
  ["7.2", "11.1", "zstd", 1],
] as const;

describe("a live guest of an unmodified QEMU, migrated by our data plane", () => {
  let vms: LiveVms;
  beforeEach(() => {
    vms = new LiveVms();
  });
  afterEach(() => vms.close());

  for (const [from, to, compression, channels] of matrix) {
    it(`has the same RAM at the destination, and runs on: ${from} to ${to}, ${compression}, ${channels} channels`, async () => {
      const first = await vms.start(from);
      const second = await vms.start(to);
      await waitForSweep(first.ram, 2);
      const flags = ["--compression", compression, "--channels", String(channels)];
      await vms.passWhole(first, second, flags);
    });
  }

  it("has its devices loaded when all of its RAM is there, however far a channel lags behind", async () => {
    const first = await vms.start("11.1");
    const second = await vms.start("11.1");
    await waitForSweep(first.ram, 2);
    // The main channel is the first connection, the last packet channel the third.
    const link = await Link.open(vms.path("link"), vms.path("behind"), { number: 2, bytesPerSecond: 2 ** 20 });
    try {
      const flags = ["--channels", "2"];
      const receiving = await vms.incoming(second, [...flags, "--then", "pause"], vms.path("behind"));
      const sending = vms.migrate(first, [...flags, "--downtime-limit", "2000"]);
      while ((await second.qemu.runState()) === "inmigrate") await setImmediate();
      assertSameBytes(first.ram, second.ram);
      const [sent, received] = await Promise.all([sending.outcome, receiving.outcome]);
      assert.deepEqual([sent.last.event, received.last.event], ["completed", "completed"], sent.last.message);
    } finally {
      link.cut();
    }
  });

  it(`passes to and fro ${TRIPS} times without a stale page`, async () => {
    let here = await vms.start("7.2");
    await waitForSweep(here.ram, 1);
    for (let trip = 1; trip <= TRIPS; trip++) {
      // Once it is at a newer QEMU it may not get back to an older one with all devices' state.
      const next = await vms.start(trip % 2 === 0 ? "7.2" : "11.1");
      await vms.pass(here, next, ["--channels", "2"]);
      const left = vms.check(here);
      await vms.assertGoesOn(next, left);
      await here.qemu.stop();
      here = next;
    }
  }).timeout(30_000 + TRIPS * 15_000);
});
