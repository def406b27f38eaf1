/** A device of ours, served to a front-end of ours: rings, log, state, reconnection; and a guest that lies. */

import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DirtyBitmap, describeRamBlock } from "@multifd/memory";
import { filesLeftOpen, type OpenFiles, openFiles } from "@multifd/native/fixture-open-files";
import { AttachedDevice } from "./attached-device.js";
import { BackEnd, type BackEndEvent } from "./back-end.js";
import type { BackEndDevice } from "./back-end-device.js";
import { deviceFeature, featureSet } from "./features.js";
import { attachFrontEnd, FixtureGuest, RAM_BYTES, serveDevice } from "./fixture.js";
import { FrontEnd } from "./front-end.js";
import { LogTracker } from "./log-tracker.js";
import { RngDevice } from "./rng-device.js";
import { loadState, saveState } from "./state-transfer.js";

const NEXT = 1;
const WRITE = 2;
const BUFFER = 0x1_0000;

describe("a back-end of ours", () => {
  let guest: FixtureGuest;
  const closers: (() => unknown)[] = [];
  let openBefore: OpenFiles;
  beforeEach(() => {
    openBefore = openFiles();
    guest = new FixtureGuest();
  });
  afterEach(async () => {
    for (const close of closers.splice(0).reverse()) await close();
    guest.close();
    assert.deepEqual(await filesLeftOpen(openBefore), [], "no descriptor is left");
  });

  async function serve(device: BackEndDevice) {
    const served = serveDevice(device);
    closers.push(served.close);
    const frontEnd = await attachFrontEnd(served.socket);
    closers.push(() => frontEnd.close());
    return { ...served, frontEnd };
  }

  function attach(frontEnd: FrontEnd, bases?: readonly number[]): AttachedDevice {
    const side = {
      features: featureSet(deviceFeature.version1),
      memory: guest.regions,
      rings: [guest.ring],
      events: [guest.events],
    };
    return new AttachedDevice(frontEnd, side, bases);
  }

  it("answers a ring, and goes on in another instance where the first one stopped", async () => {
    const source = new RngDevice();
    const device = attach((await serve(source)).frontEnd);
    await device.start();
    for (let i = 0; i < 20; i++) assert.notDeepEqual(await guest.fetch(BUFFER, 64), Buffer.alloc(64));
    await device.suspend();
    assert.deepEqual([device.bases, guest.used], [[20], 20]);
    const state: Uint8Array[] = [];
    for await (const chunk of saveState(device.frontEnd)) state.push(chunk);

    const heir = new RngDevice();
    const { frontEnd } = await serve(heir);
    await loadState(frontEnd, state);
    assert.deepEqual(heir.counters, { requests: 20, bytes: 20 * 64 });
    const destination = attach(frontEnd, device.bases);
    await destination.start();
    await guest.fetch(BUFFER, 10);
    assert.deepEqual(heir.counters, { requests: 21, bytes: 20 * 64 + 10 });
  });

  it("logs data and used ring while it is told to, and nothing else", async () => {
    const device = attach((await serve(new RngDevice())).frontEnd);
    const runs = [{ block: 0, offsetBytes: 0, guestAddress: 0x10_0000, lengthBytes: RAM_BYTES }];
    const tracker = new LogTracker([device], runs);
    const block = describeRamBlock("ram", RAM_BYTES, 4096)!;
    const harvest = () => {
      const dirty = new DirtyBitmap(block.pageCount);
      tracker.harvest(0, dirty);
      return Array.from({ length: block.pageCount }, (_, page) => page).filter((page) => dirty.has(page));
    };
    await device.start();
    await guest.fetch(BUFFER, 64);
    await tracker.start([block]);
    assert.deepEqual(harvest(), []);
    await guest.fetch(BUFFER + 4000, 5000);
    assert.deepEqual(harvest(), [2, 16, 17, 18]);
    await tracker.stop();
    await guest.fetch(BUFFER, 64);
  });

  it("is asked, answers and is announced as the specification has it", async () => {
    const announced: string[] = [];
    const config = new Uint8Array([1, 2, 3, 4]);
    const { frontEnd } = await serve({
      features: 1n << 5n,
      queues: 3,
      serve: () => {},
      config,
      announce: (mac) => announced.push(Buffer.from(mac).toString("hex")),
    });
    assert.equal(await frontEnd.queueCount(), 3);
    assert.deepEqual([...(await frontEnd.config(1, 2))], [2, 3]);
    await frontEnd.setConfig(2, Uint8Array.of(9), true);
    assert.deepEqual([...config], [1, 2, 9, 4]);
    await assert.rejects(frontEnd.config(3, 2), { code: "VHOST_CONFIG" });
    await assert.rejects(frontEnd.setConfig(3, new Uint8Array(2), false), { code: "VHOST_REFUSED" });
    await frontEnd.setStatus(15);
    assert.equal(await frontEnd.status(), 15);
    await frontEnd.sendRarp(Buffer.from("525400a1b2c3", "hex"));
    assert.deepEqual(announced, ["525400a1b2c3"]);
    await assert.rejects(frontEnd.inflight(1, 8), { code: "VHOST_NOT_OFFERED" });
    assert.equal(frontEnd.movesState, false);
    await assert.rejects(saveState(frontEnd).next(), { code: "VHOST_NOT_OFFERED" });
    await frontEnd.resetDevice();
  });

  it("refuses a state of another device, keeps its own, and tells why", async () => {
    const { frontEnd, events } = await serve(new RngDevice());
    await assert.rejects(loadState(frontEnd, [Buffer.alloc(24, 7)]), { code: "VHOST_STATE_CHECK" });
    assert.equal(events.length, 1);
    assert.match(JSON.stringify(events.map((event) => event.error.message)), /another device/);
    await assert.rejects(frontEnd.checkState(), { code: "VHOST_STATE_CHECK" });
  });

  it("refuses to give its state while a ring runs", async () => {
    const device = attach((await serve(new RngDevice())).frontEnd);
    await device.start();
    await assert.rejects(saveState(device.frontEnd).next(), { code: "VHOST_STATE_REFUSED" });
    await guest.fetch(BUFFER, 10);
  });

  it("moves a state of many megabytes through the pipe, byte for byte", async () => {
    const state = Buffer.alloc(20 * 2 ** 20, "state of a device ");
    const loaded: Buffer[] = [];
    const { frontEnd } = await serve({
      features: 0n,
      queues: 1,
      serve: () => {},
      saveState: () => [state.subarray(0, 1), state.subarray(1)],
      loadState: (bytes) => void loaded.push(Buffer.from(bytes)),
    });
    await loadState(frontEnd, [state]);
    assert.ok(loaded[0]!.equals(state));
    const saved: Uint8Array[] = [];
    for await (const chunk of saveState(frontEnd)) saved.push(chunk);
    assert.ok(Buffer.concat(saved).equals(state));
    await assert.rejects(
      (async () => {
        for await (const _ of saveState(frontEnd, { stallTimeoutMs: 1000, bytesMax: 1000 })) assert.ok(_);
      })(),
      { code: "VHOST_STATE_SIZE" },
    );
  });

  it("fails CHECK when the device cannot give its state to the end", async () => {
    const { frontEnd } = await serve({
      features: 0n,
      queues: 1,
      serve: () => {},
      // biome-ignore lint/correctness/useYield: it has nothing to give
      async *saveState() {
        throw new Error("disk on fire");
      },
      loadState: () => {},
    });
    await assert.rejects(saveState(frontEnd).next(), { code: "VHOST_STATE_CHECK" });
  });

  const lies: readonly (readonly [what: string, lie: (guest: FixtureGuest) => void, says: RegExp])[] = [
    ["a chain that begins past the ring", (g) => g.offer(8), /descriptor 8 of 8/],
    ["more chains than the ring has", (g) => g.offer(0, 9), /9 chains wait in a ring of 8/],
    [
      "a chain that is a loop",
      (g) => {
        g.describe(0, 0x11_0000, 1, NEXT, 1);
        g.describe(1, 0x11_0000, 1, NEXT, 0);
        g.offer(0);
      },
      /a loop/,
    ],
    [
      "a buffer outside memory",
      (g) => {
        g.describe(0, 0x10_0000 + RAM_BYTES - 1, 2, WRITE);
        g.offer(0);
      },
      /do not fit the memory/,
    ],
    [
      "a buffer at the end of all addresses",
      (g) => {
        g.describe(0, 2 ** 60, 2, WRITE);
        g.offer(0);
      },
      /do not fit the memory/,
    ],
    [
      "a descriptor to read behind one to write",
      (g) => {
        g.describe(0, 0x11_0000, 1, NEXT | WRITE, 1);
        g.describe(1, 0x11_0000, 1, 0);
        g.offer(0);
      },
      /to read follows/,
    ],
    [
      "more than a chain may carry",
      (g) => {
        g.describe(0, 0x11_0000, 0xffff_ffff, WRITE);
        g.offer(0);
      },
      /carries more than/,
    ],
    [
      "an indirect descriptor",
      (g) => {
        g.describe(0, 0x11_0000, 16, 4);
        g.offer(0);
      },
      /indirect/,
    ],
  ];
  for (const [what, lie, says] of lies) {
    it(`drops a guest with ${what}`, async () => {
      const { frontEnd, ended } = await serve(new RngDevice());
      await attach(frontEnd).start();
      lie(guest);
      const error = await ended;
      assert.match(error?.message ?? "it did not end", says);
    });
  }

  it("serves a front-end that comes back, with what it had counted", async () => {
    const dir = mkdtempSync(join(tmpdir(), "multifd-"));
    const events: BackEndEvent["kind"][] = [];
    const device = new RngDevice();
    const path = join(dir, "s");
    const backEnd = await BackEnd.listen(path, device, ({ kind }) => events.push(kind));
    try {
      for (let i = 0; i < 3; i++) {
        const frontEnd = await FrontEnd.connect({ path, connectTimeoutMs: 1000, replyTimeoutMs: 10_000 });
        const attached = attach(frontEnd, [i]);
        await attached.start();
        await guest.fetch(BUFFER, 8);
        frontEnd.close();
      }
      assert.deepEqual(device.counters, { requests: 3, bytes: 24 });
    } finally {
      await backEnd.close();
      rmSync(dir, { recursive: true });
    }
    assert.deepEqual(events.slice(0, 5), ["connected", "disconnected", "connected", "disconnected", "connected"]);
  });
});
