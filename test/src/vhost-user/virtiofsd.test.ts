/** virtiofsd 1.14: a FUSE session saved from one instance and loaded into another, where the same handles read on. */

import assert from "node:assert/strict";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { filesLeftOpen, openFiles } from "@multifd/native/fixture-open-files";
import {
  AttachedDevice,
  deviceFeature,
  type FrontEnd,
  featureSet,
  loadState,
  saveState,
} from "@multifd/peer-vhost-user";
import { ownError } from "../fault/refusal.js";
import {
  BackEndProcess,
  createScratchDir,
  DriverQueue,
  FUSE_ROOT,
  FuseSession,
  GuestMemory,
  removeScratchDir,
  virtiofsd,
} from "../peers/index.js";

const CONTENT = "what a migration must not lose\n";
const RINGS_AT = 0x1_0000;
const REQUESTS_AT = 0x2_0000;

describe("virtiofsd as a peer", () => {
  let dir: string;
  let share: string;
  const closers: (() => unknown)[] = [];
  before(() => {
    dir = createScratchDir("disk");
    share = join(dir, "share");
    mkdirSync(join(share, "d"), { recursive: true });
    writeFileSync(join(share, "d", "hello"), CONTENT);
  });
  afterEach(async () => {
    for (const close of closers.splice(0).reverse()) await close();
  });
  after(() => removeScratchDir(dir));

  async function start(name: string): Promise<FrontEnd> {
    const socket = join(dir, `${name}.sock`);
    const process = new BackEndProcess(virtiofsd(socket, share));
    closers.push(() => process.stop());
    const frontEnd = await process.connect(socket);
    closers.push(() => frontEnd.close());
    return frontEnd;
  }

  /** A guest's memory with both of virtiofsd's rings. */
  function makeGuest() {
    const memory = new GuestMemory([{ guestAddress: 0, lengthBytes: 2 ** 20 }]);
    const queues = [0, 1].map((index) => new DriverQueue(memory, index, RINGS_AT + index * 0x3000, 16));
    closers.push(() => {
      for (const queue of queues) queue.close();
      memory.close();
    });
    return { memory, queues, requests: queues[1]! };
  }

  function attach(frontEnd: FrontEnd, guest: ReturnType<typeof makeGuest>, bases?: readonly number[]): AttachedDevice {
    const side = {
      features: featureSet(deviceFeature.version1),
      memory: guest.memory.regions,
      rings: guest.queues.map(({ ring }) => ring),
      events: guest.queues.map(({ events }) => events),
    };
    return new AttachedDevice(frontEnd, side, bases);
  }

  it("reads on with the same node id and file handle after SAVE and LOAD", async () => {
    const guest = makeGuest();
    const source = attach(await start("source"), guest);
    await source.start();
    const session = new FuseSession(guest.memory, guest.requests, REQUESTS_AT);
    await session.init();
    const node = await session.lookup(await session.lookup(FUSE_ROOT, "d"), "hello");
    const handle = await session.open(node);
    assert.equal(await session.read(node, handle, 4096), CONTENT);

    await source.suspend();
    assert.deepEqual(source.bases, [0, 5]);
    const state = await collect(saveState(source.frontEnd));
    assert.ok(state.includes("hello"), "the open file's name is in it");

    const heir = await start("destination");
    await loadState(heir, [state.subarray(0, 7), state.subarray(7)]);
    const destination = attach(heir, guest, source.bases);
    await destination.start();
    assert.equal(await session.read(node, handle, 4096), CONTENT);
    await assert.rejects(session.read(node, handle + 17n, 4096), /errno 9/);
  });

  it("saves ten bytes when nothing is open, before anything else was said, and again", async () => {
    const frontEnd = await start("idle");
    for (let i = 0; i < 3; i++) {
      assert.equal((await collect(saveState(frontEnd))).toString("hex"), "01000200000000000000");
    }
  });

  it("refuses garbage, nothing, and half a state, and takes the good one afterwards", async () => {
    const guest = makeGuest();
    const source = attach(await start("refused-source"), guest);
    await source.start();
    const session = new FuseSession(guest.memory, guest.requests, REQUESTS_AT);
    await session.init();
    const node = await session.lookup(await session.lookup(FUSE_ROOT, "d"), "hello");
    const handle = await session.open(node);
    await source.suspend();
    const state = await collect(saveState(source.frontEnd));
    const heir = await start("refused-destination");
    const before = openFiles();
    for (const bad of [Buffer.from("garbage"), Buffer.alloc(0), state.subarray(0, state.length / 2)]) {
      assert.equal(ownError(await failure(loadState(heir, [bad]))).code, "VHOST_STATE_CHECK");
    }
    assert.deepEqual(await filesLeftOpen(before), []);
    await loadState(heir, [state]);
    // And the source, which nobody took anything from, goes on.
    await source.resume();
    assert.equal(await session.read(node, handle, 4096), CONTENT);
  });

  it("refuses a verdict where there was no transfer", async () => {
    assert.equal(ownError(await failure((await start("verdict")).checkState())).code, "VHOST_STATE_CHECK");
  });

  it("closes on a phase or message it does not know, which is one error", async () => {
    const frontEnd = await start("strict");
    // virtiofsd takes no SEND_RARP, and we would not send it; SET_OWNER twice is refused with an acknowledgement.
    await assert.rejects(frontEnd.sendRarp(Buffer.alloc(6)), { code: "VHOST_NOT_OFFERED" });
    await assert.rejects(frontEnd.status(), { code: "VHOST_NOT_OFFERED" });
    await assert.rejects(frontEnd.setFeatures(1n << 5n), { code: "VHOST_NOT_OFFERED" });
    const event = new GuestMemory([{ guestAddress: 0, lengthBytes: 4096 }]);
    await assert.rejects(frontEnd.memory.setLogEvent(event.descriptor), { code: "VHOST_CLOSED" });
    await assert.rejects(frontEnd.queueCount(), { code: "VHOST_CLOSED" });
    event.close();
  });
});

async function collect(state: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const chunks: Uint8Array[] = [];
  for await (const chunk of state) chunks.push(chunk);
  return Buffer.concat(chunks);
}

function failure(promise: Promise<unknown>): Promise<unknown> {
  return promise.then(
    () => assert.fail("it must fail"),
    (error: unknown) => error,
  );
}
