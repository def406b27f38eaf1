/** dpdk-testpmd: a guest's MAC address announced as RARP, and the buffers it receives into logged as dirty. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { DirtyBitmap, describeRamBlock } from "@multifd/memory";
import { AttachedDevice, announceGuest, deviceFeature, featureSet, LogTracker } from "@multifd/peer-vhost-user";
import {
  BackEndProcess,
  createScratchDir,
  DriverQueue,
  GuestMemory,
  removeScratchDir,
  testpmd,
} from "../peers/index.js";

const PAGE = 4096;
const BASE = 0x10_0000;
const RAM_BYTES = 2 ** 20;
const BUFFERS_AT = 0x8_0000;
const BUFFERS = 8;

describe("dpdk-testpmd as a peer", () => {
  let dir: string;
  const closers: (() => unknown)[] = [];
  before(() => {
    dir = createScratchDir("disk");
  });
  afterEach(async () => {
    for (const close of closers.splice(0).reverse()) await close();
  });
  after(() => removeScratchDir(dir));

  /** A net device with both rings of its pair, as testpmd wants it before it calls it ready. */
  async function start(name: string) {
    const socket = join(dir, name);
    const process = new BackEndProcess(testpmd(socket));
    closers.push(() => process.stop());
    await process.says(/testpmd>/);
    const frontEnd = await process.connect(socket);
    closers.push(() => frontEnd.close());
    const memory = new GuestMemory([{ guestAddress: BASE, lengthBytes: RAM_BYTES }]);
    const queues = [0, 1].map((index) => new DriverQueue(memory, index, BASE + 0x1000 + index * 0x3000, 64));
    closers.push(() => {
      for (const queue of queues) queue.close();
      memory.close();
    });
    const device = new AttachedDevice(frontEnd, {
      features: featureSet(deviceFeature.version1),
      memory: memory.regions,
      rings: queues.map(({ ring }) => ring),
      events: queues.map(({ events }) => events),
    });
    return { process, device, received: queues[0]! };
  }

  it("says RARP in the guest's name: type 0x8035, to everybody, from its MAC address", async () => {
    const { process, device } = await start("rarp");
    await device.start();
    process.type("set verbose 1");
    process.type("set fwd rxonly");
    process.type("start");
    await process.says(/rxonly packet forwarding/);
    const rounds = { rounds: 2, firstGapMs: 20, stepMs: 0, gapMaxMs: 20 };
    const mac = Buffer.from("525400a1b2c3", "hex");
    assert.equal(await announceGuest({ device, mac, rounds }), "back-end");
    const [line] = await process.says(/src=52:54:00:A1:B2:C3 .*/i);
    assert.match(line, /dst=FF:FF:FF:FF:FF:FF/i);
    assert.match(line, /type=0x8035/i);
  });

  it("logs the buffers that packets are put into, and the used ring", async () => {
    const { process, device, received } = await start("log");
    await device.start();
    const tracker = new LogTracker(
      [device],
      [{ block: 0, offsetBytes: 0, guestAddress: BASE, lengthBytes: RAM_BYTES }],
    );
    closers.push(() => tracker.stop());
    const block = describeRamBlock("ram", RAM_BYTES, PAGE)!;
    await tracker.start([block]);
    for (let i = 0; i < BUFFERS; i++) received.submit({ out: [], in: [[BASE + BUFFERS_AT + i * PAGE, 2048]] });
    process.type("set fwd txonly");
    process.type("start");
    for (let i = 0; i < BUFFERS; i++) assert.ok((await received.answer()).bytes > 60);
    const dirty = new DirtyBitmap(block.pageCount);
    tracker.harvest(0, dirty);
    const pages = Array.from({ length: block.pageCount }, (_, page) => page).filter((page) => dirty.has(page));
    assert.deepEqual(pages, [3, ...Array.from({ length: BUFFERS }, (_, i) => BUFFERS_AT / PAGE + i)]);
  });
});
