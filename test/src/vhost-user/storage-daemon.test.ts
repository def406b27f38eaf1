/** qemu-storage-daemon's vhost-user-blk: what it logs is what it wrote, and the tracker never misses a page of it. */
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { DirtyBitmap, describeRamBlock, type RamBlock } from "@multifd/memory";
import { closeDescriptor, createEvent, pollReadable, takeEvent } from "@multifd/native";
import { AttachedDevice, deviceFeature, type FrontEnd, featureSet, LogTracker } from "@multifd/peer-vhost-user";
import { SECTOR_BYTES, submitBlk } from "../peers/blk-requests.js";
import {
  BackEndProcess,
  createScratchDir,
  DriverQueue,
  GuestMemory,
  type RamRun,
  removeScratchDir,
  storageDaemon,
} from "../peers/index.js";

const PAGE = 4096;
const MIB = 2 ** 20;
const IMAGE_BYTES = 8 * MIB;
/** Eight sectors that nobody reads. */
const LAST_SECTORS = (IMAGE_BYTES - 4096) / SECTOR_BYTES;
const LOAD_MS = 60_000;

for (const version of ["system", "forky"] as const) {
  describe(`qemu-storage-daemon (${version}) as a peer`, () => {
    let dir: string;
    const image = randomBytes(IMAGE_BYTES);
    const closers: (() => unknown)[] = [];
    before(() => {
      dir = createScratchDir("disk");
      writeFileSync(join(dir, "image"), image);
    });
    afterEach(async () => {
      for (const close of closers.splice(0).reverse()) await close();
    });
    after(() => removeScratchDir(dir));

    async function start(): Promise<FrontEnd> {
      const socket = join(dir, "s");
      const process = new BackEndProcess(storageDaemon(socket, join(dir, "image"), version));
      closers.push(() => process.stop());
      const frontEnd = await process.connect(socket);
      closers.push(() => frontEnd.close());
      return frontEnd;
    }

    /** A guest whose RAM is one block, spread over guest memory; its ring in the first pages of the last run. */
    async function attach(runs: readonly RamRun[], size: number) {
      const memory = new GuestMemory(runs);
      const base = runs.at(-1)!.guestAddress;
      const queue = new DriverQueue(memory, 0, base + 0x1000, size);
      closers.push(() => {
        queue.close();
        memory.close();
      });
      const frontEnd = await start();
      const device = new AttachedDevice(frontEnd, {
        features: featureSet(deviceFeature.version1),
        memory: memory.regions,
        rings: [queue.ring],
        events: [queue.events],
      });
      const guestRuns = memory.regions.map((region) => ({ ...region, block: 0 }));
      const tracker = new LogTracker([device], guestRuns);
      closers.push(() => tracker.stop());
      const block: RamBlock = describeRamBlock("ram", memory.lengthBytes, PAGE)!;
      return { memory, base, queue, device, frontEnd, tracker, block };
    }

    /** Guest pages that one harvest reports, as offsets in the block. */
    function harvest(tracker: LogTracker, block: RamBlock): number[] {
      const dirty = new DirtyBitmap(block.pageCount);
      tracker.harvest(0, dirty);
      return pagesOf(dirty).map((page) => page * PAGE);
    }

    it("dirties exactly the pages that a read touches: buffer, status, used ring", async () => {
      const runs = [{ guestAddress: 0x10_0000, lengthBytes: 4 * MIB }];
      const { memory, base, queue, device, tracker, block } = await attach(runs, 16);
      await device.start();
      await tracker.start([block]);
      const place = { head: base + 0x8000, status: base + 0x9000 };
      submitBlk(memory, queue, place, { kind: "read", sector: 3, data: base + 0x2_0800, bytes: 8192 });
      await queue.answer();
      assert.equal(memory.read(place.status, 1)[0], 0);
      assert.ok(memory.read(base + 0x2_0800, 8192).equals(image.subarray(3 * SECTOR_BYTES, 3 * SECTOR_BYTES + 8192)));
      assert.deepEqual(harvest(tracker, block), [0x3000, 0x9000, 0x2_0000, 0x2_1000, 0x2_2000]);
      assert.deepEqual(harvest(tracker, block), [], "told once");

      submitBlk(memory, queue, place, { kind: "write", sector: LAST_SECTORS, data: base + 0x4_0000, bytes: 4096 });
      await queue.answer();
      assert.deepEqual(harvest(tracker, block), [0x3000, 0x9000], "a write only reads its buffer");

      await device.suspend();
      assert.deepEqual(device.bases, [2]);
      assert.deepEqual(harvest(tracker, block), [0x3000], "the used ring of a stopped device");
      await tracker.stop();
      await device.resume();
      submitBlk(memory, queue, place, { kind: "read", sector: 0, data: base + 0x5_0000, bytes: 512 });
      await queue.answer();
      assert.equal(memory.read(place.status, 1)[0], 0);
    });

    it("logs in RAM with holes: a ring and buffers above 4 GiB and below the hole", async () => {
      const runs = [
        { guestAddress: 0, lengthBytes: MIB },
        { guestAddress: 0x10_0000 + MIB, lengthBytes: MIB },
        { guestAddress: 2 ** 32 + 5 * PAGE, lengthBytes: MIB },
      ];
      const { memory, base, queue, device, tracker, block } = await attach(runs, 16);
      await device.start();
      await tracker.start([block]);
      const place = { head: base + 0x8000, status: 0x20_0000 };
      submitBlk(memory, queue, place, { kind: "read", sector: 0, data: 0x1_0000, bytes: 512 });
      await queue.answer();
      assert.deepEqual(harvest(tracker, block), [0x1_0000, MIB, 2 * MIB + 0x3000]);
    });

    it("signals the log event when it has logged", async () => {
      const { memory, base, queue, device, frontEnd, tracker, block } = await attach(
        [{ guestAddress: 0, lengthBytes: MIB }],
        16,
      );
      const event = createEvent();
      closers.push(() => closeDescriptor(event));
      await device.start();
      await tracker.start([block]);
      await frontEnd.memory.setLogEvent(event);
      const place = { head: base + 0x8000, status: base + 0x9000 };
      submitBlk(memory, queue, place, { kind: "read", sector: 0, data: base + 0x2_0000, bytes: 512 });
      await queue.answer();
      assert.deepEqual(await pollReadable([event], 10_000), [true]);
      assert.ok(takeEvent(event) > 0);
    });

    it("takes more than eight regions one by one, and gives one back", async () => {
      const runs = Array.from({ length: 12 }, (_, i) => ({ guestAddress: i * 2 * MIB, lengthBytes: MIB }));
      const { memory, base, queue, device, frontEnd } = await attach(runs, 16);
      assert.ok((await frontEnd.memory.slots()) >= 12);
      await device.start();
      const place = { head: base + 0x8000, status: base + 0x9000 };
      submitBlk(memory, queue, place, { kind: "read", sector: 7, data: 5 * 2 * MIB, bytes: 512 });
      await queue.answer();
      assert.equal(memory.read(place.status, 1)[0], 0);
      assert.ok(memory.read(5 * 2 * MIB, 512).equals(image.subarray(7 * SECTOR_BYTES, 8 * SECTOR_BYTES)));
      await frontEnd.memory.remove(memory.regions[3]!);
      await frontEnd.memory.add(memory.regions[3]!);
      assert.equal((await frontEnd.config(0, 8)).length, 8);
    });

    if (version === "system") {
      it("misses no page in a minute of reading under load", async function () {
        this.timeout(3 * LOAD_MS);
        const { memory, base, queue, device, tracker, block } = await attach(
          [{ guestAddress: 0x10_0000, lengthBytes: 16 * MIB }],
          128,
        );
        await device.start();
        await tracker.start([block]);
        // Heads lie on pages that only the driver writes; everything else is the device's.
        const driverPages = new Set([0x1000, 0x2000, ...Array.from({ length: 32 }, (_, i) => 0x1_0000 + i * PAGE)]);
        const copy = memory.content();
        let rounds = 0;
        let copied = 0;
        const round = () => {
          rounds++;
          for (const offset of harvest(tracker, block)) {
            memory.read(base + offset, PAGE).copy(copy, offset);
            copied++;
          }
        };
        const deadline = Date.now() + LOAD_MS;
        const slots = Array.from({ length: 32 }, (_, i) => ({
          head: base + 0x1_0000 + i * PAGE,
          status: base + 0x8_0000 + i * 100,
        }));
        const busy = new Map<number, (typeof slots)[number]>();
        const submit = (slot: (typeof slots)[number]) => {
          const bytes = SECTOR_BYTES * (1 + Math.floor(Math.random() * 24));
          const data = base + MIB + Math.floor((Math.random() * (15 * MIB - bytes)) / 16) * 16;
          const sector = Math.floor((Math.random() * (IMAGE_BYTES - bytes)) / SECTOR_BYTES);
          busy.set(submitBlk(memory, queue, slot, { kind: "read", sector, data, bytes }), slot);
        };
        for (const slot of slots) submit(slot);
        for (let answers = 1; busy.size > 0; answers++) {
          const { head } = await queue.answer();
          const slot = busy.get(head)!;
          busy.delete(head);
          if (Date.now() < deadline) submit(slot);
          if (answers % 50 === 0) round();
        }
        await device.suspend();
        round();
        const now = memory.content();
        for (let offset = 0; offset < now.length; offset += PAGE) {
          if (driverPages.has(offset)) continue;
          const same = now.compare(copy, offset, offset + PAGE, offset, offset + PAGE) === 0;
          assert.ok(same, `page at 0x${offset.toString(16)} was missed in ${rounds} rounds of ${copied} pages`);
        }
        assert.ok(rounds > 10 && copied > 10_000, `${rounds} rounds, ${copied} pages`);
      });
    }
  });
}

function pagesOf(dirty: DirtyBitmap): number[] {
  return Array.from({ length: dirty.pageCount }, (_, page) => page).filter((page) => dirty.has(page));
}
