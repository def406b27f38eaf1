import assert from "node:assert/strict";
import fc from "fast-check";
import { limitScan } from "./features.js";
import { listPages, makeBlock, packetFrom } from "./fixture.js";
import { writeMemory } from "./mapping.js";
import { preparePacket } from "./packet-calls.js";

const blockBytes = 256 * 1024;
const levels = ["scalar", "avx2", "best"] as const;

describe("zero scan", () => {
  const block = makeBlock(blockBytes);
  after(() => {
    limitScan("best");
    block.close();
  });

  for (const level of levels) {
    it(`splits pages as a plain loop over their bytes does, order kept (${level})`, () => {
      limitScan(level);
      const pageSize = fc.constantFrom(512, 1024, 4096, 16384, 65536);
      const spots = fc.array(fc.tuple(fc.nat(blockBytes - 1), fc.integer({ min: 1, max: 255 })), { maxLength: 6 });
      fc.assert(
        fc.property(pageSize, spots, fc.infiniteStream(fc.nat()), (pageBytes, bytesSet, picks) => {
          const image = new Uint8Array(blockBytes);
          for (const [at, value] of bytesSet) image[at] = value;
          writeMemory(block.mapping, 0, image);
          const pagesInBlock = blockBytes / pageBytes;
          const pages = Array.from({ length: Math.min(pagesInBlock, 128, (1 << 20) / pageBytes) }, () => {
            return (picks.next().value as number) % pagesInBlock;
          });
          const isZero = (page: number) =>
            image.subarray(page * pageBytes, (page + 1) * pageBytes).every((b) => b === 0);

          const packet = packetFrom(block, pageBytes);
          listPages(packet, pages);
          preparePacket(packet, true);

          const expected = [...pages.filter((page) => !isZero(page)), ...pages.filter(isZero)];
          assert.deepEqual([...packet.pages.subarray(0, pages.length)], expected);
          assert.equal(packet.zeroPages, pages.filter(isZero).length);
          assert.equal(packet.normalPages + packet.zeroPages, pages.length);
          assert.equal(packet.payloadBytes, packet.normalPages * pageBytes);
        }),
        { numRuns: 60 },
      );
    });

    it(`sees a single byte wherever in a page it stands (${level})`, () => {
      limitScan(level);
      writeMemory(block.mapping, 0, new Uint8Array(blockBytes));
      const packet = packetFrom(block, 4096);
      for (let at = 0; at < 4096; at++) {
        writeMemory(block.mapping, 4096 + at, Uint8Array.of(1));
        listPages(packet, [0, 1, 2]);
        preparePacket(packet, true);
        writeMemory(block.mapping, 4096 + at, Uint8Array.of(0));
        assert.deepEqual([packet.normalPages, packet.pages[0]], [1, 1], `byte ${at}`);
      }
    });
  }

  it("leaves every page normal when not asked to look", () => {
    writeMemory(block.mapping, 0, new Uint8Array(blockBytes));
    const packet = packetFrom(block, 4096);
    listPages(packet, [5, 3]);
    assert.equal(preparePacket(packet, false), 8192);
    assert.deepEqual([packet.normalPages, packet.zeroPages, packet.pages[0]], [2, 0, 5]);
  });
});
